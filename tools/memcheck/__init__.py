"""The core under valgrind's memcheck: ``python -m tools.memcheck``."""
