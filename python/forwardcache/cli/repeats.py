"""An option that is given twice is refused: the parser would keep the last one without a word."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer

# The class of wrong use, of which some versions of typer bring a copy of their own.
_UsageError: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError"
)


def refusing_repeats(command: Any) -> Any:
    """Makes ``command`` and all below it refuse an option that takes one value and has two.

    Args:
        command: A command or a group, as typer has made it; it is changed.

    Returns:
        The same command.
    """
    for each in getattr(command, "commands", {}).values():
        refusing_repeats(each)
    parse = command.parse_args

    def parse_args(context: Any, args: list[str]) -> Any:
        if not context.resilient_parsing:
            _check_once(command, context, args)
        return parse(context, args)

    command.parse_args = parse_args
    return command


def _check_once(command: Any, context: Any, args: list[str]) -> None:
    """Refuse ``args`` if they hold a single option, in any of its spellings, more than once."""
    _, _, order = command.make_parser(context).parse_args(args=list(args))
    for parameter, times in Counter(order).items():
        if times > 1 and _is_single(parameter):
            name = "/".join([*parameter.opts, *parameter.secondary_opts])
            raise _UsageError(f"{name} is given {times} times: it can be given once", ctx=context)


def _is_single(parameter: Any) -> bool:
    """Whether it keeps one of several; arguments are told apart by their positions."""
    is_option = parameter.param_type_name == "option"
    gathers = parameter.multiple or getattr(parameter, "count", False)
    # An eager one (--help) ends the command as soon as it is met.
    return is_option and not gathers and not parameter.is_eager
