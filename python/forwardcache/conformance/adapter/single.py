"""Checks with one adapter at a time: is all of it there, and is the base still the base?"""

from __future__ import annotations

from forwardcache.conformance.adapter.session import Findings, Session

__all__ = ["base", "base_kept", "planted"]


def base(session: Session) -> Findings:
    """The base's values are the model's, within what its dtype explains."""
    yield from session.measure()


def planted(session: Session, name: str) -> Findings:
    """An adapter's values are the exact ones.

    Args:
        session: The engine.
        name: Which adapter.
    """
    plant = session.plant(name)
    texts = session.ground.texts(name)
    with session.having(plant) as [loaded]:
        given = session.ask(texts, loaded)
        case = session.case(loaded, texts, given, "loaded alone")
        yield from session.judged(case, loaded)


def base_kept(session: Session) -> Findings:
    """The base's values stay the same when an adapter is loaded, used and unloaded."""
    plant = session.plant("all_linear")
    used, texts = session.ground.texts("base_loaded")[:1], session.ground.texts("base_loaded")[1:]
    with session.having(plant) as [loaded]:
        session.ask(used, loaded)
        how = f"{plant.name} is loaded and was used; asked for the base"
        yield from _base_is_right(session, texts, how)
    how = f"{plant.name} was loaded, used and unloaded; asked for the base"
    yield from _base_is_right(session, session.ground.texts("base_unloaded"), how)


def _base_is_right(session: Session, texts: list[tuple[int, ...]], how: str) -> Findings:
    case = session.case(None, texts, session.ask(texts, None), how)
    for failure in session.judged(case, None):
        yield session.of_base(failure)
