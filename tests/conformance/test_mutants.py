"""Every small fault in a check, a comparison or a precedence of the kit is caught by a case.

Checked here: all mutants of the modules that read, receive and judge, made anew from the sources.
Those in ``EQUIVALENT`` change nothing that can be seen, for the reason given there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from types import CodeType, FunctionType, ModuleType

import pytest

from forwardcache.conformance import chunk, judge, media, seed, stream
from forwardcache.conformance.strict import ask, counts, leftovers, prompts, stops, together
from tests.conformance.cases import FAULTS, PASSES, Case
from tests.conformance.mutation import Mutant, mutants_of
from tests.conformance.probes import ABOUT, PROBES

# A mutant may forget to await what an engine gave it.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

LIMIT_S = 1.0
CHANCES = 3
"""How often a look may miss a deadline, which happens by chance on a busy machine."""

STRICT: tuple[ModuleType, ...] = (ask, counts, leftovers, prompts, stops, together)
MODULES: tuple[ModuleType, ...] = (chunk, judge, media, seed, stream, *STRICT)
PROFILES = {
    "media": {"encode", "raw"},
    "seed": {"seed"},
    **{module.__name__.rpartition(".")[2]: {"strict"} for module in STRICT},
}
"""The profiles whose checks a module has."""

EQUIVALENT: dict[str, str] = {
    "stream.receive: condition always true in `isinstance(error, asyncio.CancelledError)`": (
        "differs only for a task that is destroyed with its loop"
    ),
    "stream._let_others_run: bound moved in `received > _CROWD`": (
        "the hundred thousandth chunk waits a millisecond or not"
    ),
    "leftovers.event_loop: bound moved in `took > subject.settings.block_limit`": (
        "a measured time never equals the limit"
    ),
    "ask.alone: condition always true in `prompt not in subject.alone`": (
        "asks again for what it knows, which costs time alone"
    ),
    "leftovers._traces_of_drops: precedence exchanged in `_traces_of_drops`": (
        "both are the same failure, in other words"
    ),
    "counts.token_limits: bound moved in `asked > affordable`": (
        "a measured number never equals a limit"
    ),
    "stops._used_its_context_up: bound moved in `reception.ended_at - since > _TOO_SOON_S`": (
        "a measured time never equals the limit"
    ),
    "ask.settled: bound moved in `time.monotonic() < until`": (
        "a measured time never equals the limit"
    ),
}


def wrong_verdict(case: Case) -> bool:
    failure = case.verdict(check_timeout=LIMIT_S)
    if failure is None or case.expected is None:
        return (failure is None) is not (case.expected is None)
    return type(failure) is not case.expected or failure.check != case.check


def catches(sees: Callable[[], object]) -> bool:
    """Whether ``sees`` finds something wrong; a kit that breaks is found too."""
    try:
        return bool(sees())
    except BaseException:
        return True


@dataclass(frozen=True)
class Look:
    """Something that can catch a mutant, with the check or function and profile it is about."""

    check: str
    profile: str
    sees: Callable[[], object]
    seconds: float

    def catches(self) -> bool:
        return catches(self.sees)


@cache
def looks() -> list[Look]:
    """All looks; none of them sees anything in the kit as it is."""
    found = [
        _measured(case.check, case.profile, partial(wrong_verdict, case))
        for case in [*FAULTS, *PASSES]
    ]
    return [*found, *(_measured(ABOUT.get(probe, ""), "", probe) for probe in PROBES)]


def _measured(check: str, profile: str, sees: Callable[[], object]) -> Look:
    clean = missed = 0
    # A look that has seen something is to see nothing twice as often, and is else of no use.
    while clean <= 2 * missed:
        began = time.perf_counter()
        if catches(sees):
            missed += 1
        else:
            clean += 1
        seconds = time.perf_counter() - began
        assert missed < CHANCES, f"sees something in the kit as it is: {sees}"
    return Look(check, profile, sees, seconds)


def ordered(mutant: Mutant) -> list[Look]:
    """Looks at what uses the function first, then those of its profile, the quick ones first."""
    module, _, name = mutant.id.partition(":")[0].partition(".")
    profiles, users = {"", *PROFILES.get(module, ())}, {name, *users_of(name)}
    return sorted(
        looks(), key=lambda k: (k.check not in users, k.profile not in profiles, k.seconds)
    )


@cache
def calls() -> dict[str, set[str]]:
    """What each function of the modules names, closures included."""
    found: dict[str, set[str]] = {}
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, FunctionType):
                found[name] = set(names_in(value.__code__))
    return found


def names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from names_in(const)


@cache
def users_of(name: str) -> frozenset[str]:
    """The functions that name ``name``, at whatever remove."""
    found: set[str] = set()
    new = {name}
    while new:
        new = {user for user, named in calls().items() if named & new} - found
        found |= new
    return frozenset(found)


def caught(mutant: Mutant, tried_first: list[Look]) -> bool:
    """Whether a look sees ``mutant``; that look is tried first on the function's next one."""
    in_order = [*tried_first, *ordered(mutant)]
    with mutant.in_place():
        for look in in_order:
            if look.catches():
                tried_first.insert(0, look)
                return True
    return False


def functions() -> Iterator[tuple[FunctionType, list[Mutant]]]:
    found: dict[FunctionType, list[Mutant]] = {}
    for module in MODULES:
        for mutant in mutants_of(module):
            found.setdefault(mutant.function, []).append(mutant)
    yield from found.items()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_SETTLE_S", 0.15)
    monkeypatch.setattr(leftovers, "_BEAT_S", 0.001)


@pytest.mark.parametrize(
    "mutants", [pytest.param(found, id=found[0].id.partition(":")[0]) for _, found in functions()]
)
def test_every_mutant_of_the_function_is_caught(mutants: list[Mutant]) -> None:
    tried_first: list[Look] = []
    kept = [mutant for mutant in mutants if mutant.id not in EQUIVALENT]
    assert [mutant.id for mutant in kept if not caught(mutant, tried_first)] == []


def test_the_equivalent_mutants_still_exist() -> None:
    ids = {mutant.id for _, found in functions() for mutant in found}
    assert set(EQUIVALENT) <= ids
