"""How long a test waits for a process that might hang."""

PATIENCE_S = 600
"""It ends a hang, and says nothing of speed: a busy machine may take minutes for seconds' work."""
