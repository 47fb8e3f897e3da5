"""The command ``forwardcache``, also ``python -m forwardcache``.

Only this file runs where the package is installed without its extras; everything it needs is the
standard library, so that it can say in one line what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from forwardcache import __version__
from forwardcache.extras import install
from forwardcache.jobs.imports import OWN_PROCESS

_COMMAND_LINE_PACKAGES = frozenset({"typer", "click", "rich"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; None for those of this process.

    Returns:
        The exit status: 0 done, 1 the answer is no, 2 wrong use or bad input, 3 the machine failed,
        130 interrupted, 141 the reader of standard output has gone.
    """
    OWN_PROCESS.set(argv is None)
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments == ["--version"]:
        print(f"forwardcache {__version__}")
        return 0
    try:
        from forwardcache.cli.app import run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _COMMAND_LINE_PACKAGES:
            raise
        print(
            f"forwardcache: the command line needs {package}: {install('cli')} "
            f"(to score models: {install('hf')})",
            file=sys.stderr,
        )
        return 2
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
