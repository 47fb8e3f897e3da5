"""Checks with several adapters, requests or texts: does one have an effect on another?"""

from __future__ import annotations

from forwardcache.conformance.adapter.diagnose import Case, diagnosis, evidence_of
from forwardcache.conformance.adapter.failures import (
    AdapterFailure,
    AdapterIgnored,
    AdaptersMixed,
    BaseChanged,
    DependsOnBatch,
    DependsOnPrefix,
)
from forwardcache.conformance.adapter.ground import Pair
from forwardcache.conformance.adapter.session import CheckSkippedError, Findings, Session
from forwardcache.conformance.adapter.subject import SubjectRaisedError
from forwardcache.hf.planting.exact import Text

__all__ = [
    "concurrency",
    "prefixes",
    "reload",
    "reload_after_unload",
    "same_adapter",
    "two_adapters",
]

AT_ONCE = 8


def two_adapters(session: Session) -> Findings:
    """Two adapters that are loaded beside each other, and the base beside them."""
    plants = session.plant("all_linear"), session.plant("other")
    with session.having(*plants) as [one, other]:
        steps = (
            (other, "two_second"),
            (one, "two_first"),
            (None, "two_base"),
            (other, "two_again"),
        )
        how = "all_linear and other are loaded, asked in turn"
        for name, purpose in steps:
            texts = session.ground.texts(purpose)
            given = session.ask(texts, name)
            case = session.case(name, texts, given, how, beside_others=True)
            yield from session.judged(case, name)


def reload(session: Session) -> Findings:
    """Another adapter loaded under a name that is in use."""
    yield from _reloaded(session, unload=False)


def reload_after_unload(session: Session) -> Findings:
    """Another adapter loaded under a name that was in use."""
    yield from _reloaded(session, unload=True)


def _reloaded(session: Session, *, unload: bool) -> Findings:
    before, after = session.plant("all_linear"), session.plant("new")
    purpose = "reload_with_unload" if unload else "reload_after"
    old, new = session.ground.texts("reload_before"), session.ground.texts(purpose)
    # Each check has its own, so that no cache knows them.
    old = old[:1] if unload else old[1:]
    with session.having(before) as [name]:
        session.ask(old, name)
        if unload:
            session.unload(name)
        try:
            session.load(name, after)
        except SubjectRaisedError as error:
            if unload:
                raise
            raise CheckSkippedError(f"a name that is in use is refused: {error}") from error
        how = "loaded under a name that had all_linear" + (", which was unloaded" if unload else "")
        case = session.case(name, new, session.ask(new, name), how, before=before)
        found = list(session.judged(case, name))
        yield from found
        if not found:
            how = f"{how}; the same texts were asked before the reload"
            case = session.case(name, old, session.ask(old, name), how, before=before)
            yield from _because_of_prefix(case)


def same_adapter(session: Session) -> Findings:
    """Eight texts of different length at once, all with one adapter."""
    plant = session.plant("all_linear")
    with session.having(plant) as [name]:
        texts = _some(session, "alone")
        yield from _at_once(session, [(text, name) for text in texts], "one adapter")


def concurrency(session: Session) -> Findings:
    """Eight texts at once: two adapters and the base."""
    plants = session.plant("all_linear"), session.plant("other")
    with session.having(*plants) as [one, other]:
        names = (one, other, None, other, one, None, one, other)
        texts = _some(session, "together")
        asked = list(zip(texts, names, strict=True))
        yield from _at_once(session, asked, "two adapters and the base", mixed=True)


def _some(session: Session, purpose: str) -> list[Text]:
    """Eight texts of different length."""
    texts = session.ground.texts(purpose)[:AT_ONCE]
    return [text[: max(4, len(text) - 2 * index)] for index, text in enumerate(texts)]


def _at_once(
    session: Session, asked: list[tuple[Text, str | None]], what: str, *, mixed: bool = False
) -> Findings:
    how = f"{len(asked)} requests at once, {what}"
    answers = session.caller.together(asked)
    for (text, name), given in zip(asked, answers, strict=True):
        if isinstance(given, SubjectRaisedError):
            raise given
        case = session.case(name, [text], [given], how, beside_others=mixed)
        if case.wrong:
            yield _because_of_company(case, mixed=mixed)


def _because_of_company(case: Case, *, mixed: bool) -> AdapterFailure:
    failure = diagnosis(case)
    assert failure.evidence is not None
    if mixed and isinstance(failure, AdaptersMixed | BaseChanged | AdapterIgnored):
        return AdaptersMixed().showing(failure.evidence)
    return DependsOnBatch().showing(failure.evidence)


def prefixes(session: Session) -> Findings:
    """Texts that share their first 4, 8, 16 or 40 tokens, asked of another adapter or the same.

    Also of one that was loaded under the name of another between the two.
    """
    plants = session.plant("all_linear"), session.plant("other")
    with session.having(*plants) as [one, other]:
        turns = ((one, other), (None, one), (one, None), (one, one))
        for turn, (first, second) in enumerate(turns):
            for pair in session.ground.pairs(turn):
                yield from _after_prefix(session, pair, first, second)
    for turn, unload in enumerate((True, False), len(turns)):
        yield from _after_reload(session, session.ground.pairs(turn), unload=unload)


def _after_prefix(session: Session, pair: Pair, first: str | None, second: str | None) -> Findings:
    session.ask([pair.earlier], first)
    words: dict[str | None, str] = {name: each.name for name, each in session.loaded.items()}
    words[None] = "the base"
    how = (
        f"{words[second]} is asked for a text of {len(pair.later)} tokens after {words[first]} was "
        f"for one of {len(pair.earlier)} that begins with the same {pair.shared}"
    )
    case = session.case(second, [pair.later], session.ask([pair.later], second), how)
    yield from _because_of_prefix(case)


def _after_reload(session: Session, pairs: list[Pair], *, unload: bool) -> Findings:
    """Texts that begin as some did that had been asked for when the name was another adapter's."""
    before, after = session.plant("all_linear"), session.plant("new")
    with session.having(before) as [name]:
        session.ask([pair.earlier for pair in pairs], name)
        if unload:
            session.unload(name)
        try:
            session.load(name, after)
        except SubjectRaisedError:
            if unload:
                raise
            # That a name in use is refused is no fault.
            return
        how = "loaded under a name that had all_linear" + (", which was unloaded" if unload else "")
        new = [session.ground.texts("prefixes_after_reload")[unload]]
        if session.case(name, new, session.ask(new, name), how, before=before).wrong:
            # Wrong for a new text too: the checks of reloads say it.
            return
        for pair in pairs:
            later, shared = [pair.later], f"{how}; asked before with the same {pair.shared} tokens"
            case = session.case(name, later, session.ask(later, name), shared, before=before)
            yield from _because_of_prefix(case)


def _because_of_prefix(case: Case) -> Findings:
    if case.wrong:
        yield DependsOnPrefix().showing(evidence_of(case, f"values {case.off:.3g} nats from these"))
