"""How long a test waits for a process that might hang."""

PATIENCE_S = 600
"""It ends a hang, and says nothing of speed: a busy machine may take minutes for seconds' work."""

HANG_S = PATIENCE_S / 3
"""How long one of several may hang: less than a whole test may take, so that it can say which."""
