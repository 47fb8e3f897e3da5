"""Adapters for other tools. Each is imported by its users alone and needs an extra of its name."""
