"""``forwardcache verify``: somebody's table, checked without trusting it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forwardcache.cli.exits import ExitCode, say
from forwardcache.cli.extras import SCORING, check_installed
from forwardcache.jobs.session import load
from forwardcache.jobs.verify.plan import planned

if TYPE_CHECKING:
    from rich.table import Table

    from forwardcache.jobs.verify.findings import Finding
    from forwardcache.jobs.verify.options import VerifyOptions
    from forwardcache.jobs.verify.plan import Plan
    from forwardcache.jobs.verify.run import Verification

_MOST_SHOWN = 20
_MOST_LINES = 10
_MOST_FACTS = 12
_LONGEST = 24


def verify(options: VerifyOptions, *, as_json: bool) -> int:
    """Run the command; the exit code."""
    from forwardcache.cli.tables import show, show_json
    from forwardcache.jobs.verify.run import checked

    check_installed(*SCORING)
    plan = planned(options)
    say(_what_is_done(options, plan))
    for note in plan.notes:
        say(note)
    session = load(plan.loading)
    try:
        found = checked(session, plan)
    finally:
        session.close()
    if found.elsewhere:
        say(f"this is not the arithmetic of the rows: {'; '.join(found.elsewhere)}")
    if as_json:
        show_json(sys.stdout, found.as_json())
    else:
        if found.findings:
            show(sys.stdout, _table(found.findings[:_MOST_SHOWN]))
        print(_sentence(found))
        if found.unchecked:
            print(_not_checked(found.unchecked))
    return ExitCode.DONE if found.is_good else ExitCode.NO


def _what_is_done(options: VerifyOptions, plan: Plan) -> str:
    chosen = _counted(len(plan.source.prompts), "prompt")
    return (
        f"verifying {options.rows}: the rows of {chosen} of {plan.prompts:,} are scored again with "
        f"{plan.loading.named}"
    )


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}" + ("" if count == 1 else "s")


def _sentence(found: Verification) -> str:
    """What was found, in one sentence."""
    bound = f"{found.bound.nats:.3g}"
    head, largest = _head(found), _largest(found)
    off = sum(not each.is_excused for each in found.findings)
    excused = len(found.findings) - off
    if off:
        more = f", of which {_MOST_SHOWN} are shown" if off > _MOST_SHOWN else ""
        return f"{head}: {_counted(off, 'thing')} not as recorded{more}{largest}."
    if excused:
        return (
            f"{head}: {_counted(excused, 'value')} beyond {bound} nats a token, which another "
            f"device, dtype or version may explain (up to {found.bound.wide:.3g}){largest}."
        )
    if (dtype := found.bound.dtype) is None:
        return f"{head}: all as recorded{largest}."
    return (
        f"{head}: all within what rounding in {dtype} may move{largest}. A smaller edit can't be "
        "told from rounding: a table that is to be checked closely is made in float32."
    )


def _not_checked(names: Sequence[str]) -> str:
    """Which facts were taken for nothing; whoever made the table names them."""
    more = ", ..." if len(names) > _MOST_FACTS else ""
    return f"Not checked, of its facts: {', '.join(map(_printable, names[:_MOST_FACTS]))}{more}."


def _head(found: Verification) -> str:
    """How many rows were checked, and which."""
    lines = ", ".join(str(line) for line in found.lines[:_MOST_LINES])
    more = ", ..." if len(found.lines) > _MOST_LINES else ""
    which = f"{'line' if len(found.lines) == 1 else 'lines'} {lines}{more}; --seed {found.seed}"
    return f"{found.checked:,} of {_counted(found.rows, 'row')} scored again ({which})"


def _largest(found: Verification) -> str:
    """What is furthest off for what it may be, and both, as the table has them."""
    if (far := found.furthest) is None:
        return ""
    return (
        f"; furthest off is {far.field} (line {far.line}, {far.view}), by {far.difference:.3g} "
        f"nats where {far.allowed:.3g} is allowed"
    )


def _table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = Table()
    for name in ("line", "view", "field", "recorded", "computed", "apart", "allowed"):
        is_number = name in {"line", "apart", "allowed"}
        shown.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for one in findings:
        apart = "" if one.difference is None else _amount(one.difference, one.unit)
        cells = (
            "" if one.line is None else str(one.line),
            _printable(one.view or ""),
            _printable(one.field),
            _cell(one.recorded),
            _cell(one.computed),
            f"{apart} (other arithmetic)" if one.is_excused else apart,
            "" if one.bound is None else _amount(one.bound, one.unit),
        )
        # Not as markup, which the words of a table could be.
        shown.add_row(*map(Text, cells))
    return shown


def _amount(value: float, unit: str) -> str:
    return f"{value:.3g}" if unit == "nats" else _counted(int(value), "position")


def _cell(value: Any) -> str:
    """A value of a table that nobody vouches for, as short and printable text."""
    if value is None:
        return "-"
    return _cut(f"{value:.7g}" if isinstance(value, float) else json.dumps(value))


def _printable(name: str) -> str:
    return _cut(name if name.isprintable() else repr(name)[1:-1])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
