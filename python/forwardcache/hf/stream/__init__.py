"""From prompts to new text: the streaming engine and plain generation.

Reading order: ``engine``, ``request``, ``decode``, ``sample``; ``generate``.
"""
