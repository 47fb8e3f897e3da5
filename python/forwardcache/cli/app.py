"""From the words of a command line to an exit code: the root of the commands and its quirks.

Nothing heavy is imported here: ``--help`` has to be quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from forwardcache import __version__
from forwardcache.cli.commands.options import EXIT_STATUS
from forwardcache.cli.commands.report import REPORT_COMPARE
from forwardcache.cli.exits import ExitCode, guarded, say, say_warnings
from forwardcache.cli.repeats import refusing_repeats
from forwardcache.jobs.metadata import WORDS

# In the order of the help, with the name of those that are groups of their own.
_MODULES = {
    "score": None,
    "diff": None,
    "export": "export",
    "verify": None,
    "merge": None,
    "report": None,
    "check": "check",
    "trace": "trace",
    "store": "store",
}
# Whose commands have another name than their module.
_ELSEWHERE = {"demo": "score", REPORT_COMPARE: "report"}

# The root of click's errors, of which some versions of typer bring a copy of their own.
_UsageProblem: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def app_of(*modules: str) -> typer.Typer:
    """The root with the commands of some modules: a command that is named needs no others.

    Args:
        *modules: Names below ``forwardcache.cli.commands``.
    """
    app = typer.Typer(
        name="forwardcache",
        help="Every forward pass once: an exact, traced cache under the views of one model.",
        epilog=EXIT_STATUS,
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for module in modules:
        commands = import_module(f"forwardcache.cli.commands.{module}").commands
        # A group without a name adds its commands to the root's.
        app.add_typer(commands, name=_MODULES[module])
    app.callback()(_forwardcache)
    return app


def whole_app() -> typer.Typer:
    """The root with all commands."""
    return app_of(*_MODULES)


def run(argv: Sequence[str]) -> int:
    """Run one command; the exit code."""
    say_warnings()
    WORDS.set(tuple(argv))
    return guarded(lambda: _invoke(_with_joined_name(_with_address(argv))))


def _with_joined_name(argv: list[str]) -> list[str]:
    """``argv`` with the one command of two words as one: ``report`` itself takes traces."""
    words = REPORT_COMPARE.split()
    is_compare = argv[: len(words)] == words
    return [REPORT_COMPARE, *argv[len(words) :]] if is_compare else argv


def _with_address(argv: Sequence[str]) -> list[str]:
    """``argv`` with an address behind each ``--ray`` that has none: options here have values."""
    following = [*argv[1:], "-"]
    pairs = zip(argv, following, strict=False)
    return [
        "--ray=local" if word == "--ray" and after.startswith("-") else word
        for word, after in pairs
    ]


def _invoke(argv: list[str]) -> int:
    try:
        named = _ELSEWHERE.get(argv[0], argv[0]) if argv else ""
        app = app_of(*([named] if named in _MODULES else _MODULES))
        command = refusing_repeats(typer.main.get_command(app))
        code = command(args=argv, prog_name="forwardcache", standalone_mode=False)
    except _UsageProblem as problem:
        say(_usage_line(problem))
        return ExitCode.BAD_INPUT
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as ended:
        # Typer ends the process itself where the reader of standard output has gone, and with 0
        # where a shell has asked what a word may be completed to.
        return ExitCode.READER_GONE if ended.code else ExitCode.DONE
    if code == ExitCode.INTERRUPTED:
        # Typer makes this of Ctrl-C, without a word.
        raise KeyboardInterrupt
    return int(code or 0)


def _usage_line(problem: Any) -> str:
    """What was wrong with the command line, and where its help is."""
    context = getattr(problem, "ctx", None)
    command = "forwardcache" if context is None else context.command_path
    # Some versions of typer let the words of their validator through.
    told = problem.format_message().replace("Value error, ", "")
    return f"{told} ({command} --help)"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"forwardcache {__version__}")
        raise typer.Exit


def _forwardcache(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Every forward pass once: an exact, traced cache under the views of one model."""
