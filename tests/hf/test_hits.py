"""Claims: a call whose values are all cached is, but for its cost, the call that it was: the same
values, errors, counters and events, whatever was done to model, tokenizer, cache or options before
it; it makes no tokens and asks no store. Entering a view that was exact at the last look is free.
"""

from pathlib import Path
from typing import Any

import pytest

from forwardcache.errors import NestedViewError, UnsupportedModelError
from forwardcache.hf.model.identity import ModelIdentity
from forwardcache.hf.scoring.call import Call
from forwardcache.hf.scoring.value_store import ValueStore
from forwardcache.hf.text.encode import Encoder
from forwardcache.instrumentation import BackendInstrumentation
from tests.hf.conftest import MakeBackend
from tests.hf.long_way import PROMPTS, Pair, walk
from tests.tolerance import hold_to_tolerance

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "a store": {"store": True},
    "a store under a small cache": {"store": True, "cache_maxsize": 5},
    "a chat template": {"chat_template": True},
    "hits that are computed again": {"verify": 1.0},
    "strict": {"identity": "strict"},
    "kept states": {"keep": "states"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_short_way_is_the_long_way(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = dict(OPTIONS[name])
    pair = Pair(monkeypatch, tmp_path, **options)
    walk(pair, seed=list(OPTIONS).index(name), steps=15, template="chat_template" in options)
    pair.close()
    assert (pair.taken > 0) == (name not in ("hits that are computed again", "kept states"))


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing of this kind is to be done at a hit")


def test_a_hit_makes_no_tokens_and_asks_no_store(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = make_backend(store=tmp_path / "values.db")

    def ask(view: Any) -> list[Any]:
        pair = (PROMPTS[0], " dog")
        single = view.next_token_dist(PROMPTS[0]), view.rolling_logprob(PROMPTS[1])
        return [*single, view.logprob_of(*pair), *view.next_token_dist_batch(PROMPTS)]

    with backend.as_base() as base:
        expected = ask(base)
    for kind, name in ((Encoder, "encode_framed"), (Encoder, "known"), (ValueStore, "fetch")):
        monkeypatch.setattr(kind, name, refuse)
    with backend.as_base() as base:
        assert ask(base) == expected


def test_entering_a_view_that_was_exact_at_the_last_look_looks_at_nothing(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(copied=True)

    def enter() -> None:
        with backend.as_scaled_adapter(0.5):
            pass

    with backend.as_scaled_adapter(0.5) as view:
        view.next_token_dist(PROMPTS[0])
    with monkeypatch.context() as patch:
        for name in ("state", "structure"):
            patch.setattr(ModelIdentity, name, refuse)
        enter()
        with pytest.raises(AssertionError), backend.as_base():
            pass
    backend.weights_changed()
    monkeypatch.setattr(ModelIdentity, "structure", refuse)
    with pytest.raises(AssertionError):
        enter()


def test_a_view_that_became_inexact_is_refused_with_its_first_value_and_then_on_entering(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(copied=True)
    with backend.as_base() as base:
        base.next_token_dist(PROMPTS[0])
    backend.model.merge_adapter()
    with backend.as_base() as base, pytest.raises(UnsupportedModelError, match="merged"):
        base.next_token_dist(PROMPTS[0])
    with pytest.raises(UnsupportedModelError, match="merged"), backend.as_base():
        pass


def test_the_norm_of_a_view_that_became_inexact_is_refused(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    with backend.as_scaled_adapter(0.5) as view:
        view.next_token_dist(PROMPTS[0])
    backend.model.merge_adapter()
    with backend.as_scaled_adapter(0.5) as view, pytest.raises(UnsupportedModelError):
        view.update_norm()


def test_entering_a_known_view_inside_a_forward_is_refused(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    found: list[Any] = []

    def enter(*_: Any) -> None:
        with pytest.raises(NestedViewError, match="running forward"), backend.as_base():
            found.append("entered")
        found.append("refused")

    with backend.as_base() as base:
        base.next_token_dist(PROMPTS[0])
    backend.progress = enter
    backend.next_token_dist_batch(PROMPTS[1:])
    assert set(found[:1]) == {"refused"}


class Forgetting(BackendInstrumentation):
    """Empties its cache before it looks something up."""

    def cached(self, *args: Any, **keywords: Any) -> Any:
        self.cache.clear()
        return super().cached(*args, **keywords)

    def cached_batch(self, *args: Any, **keywords: Any) -> Any:
        self.cache.clear()
        return super().cached_batch(*args, **keywords)


def test_a_value_that_was_evicted_at_the_last_moment_is_computed(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(instrumentation=Forgetting())
    one, many = backend.next_token_dist(PROMPTS[0]), backend.next_token_dist_batch(PROMPTS)
    hold_to_tolerance([backend.next_token_dist(PROMPTS[0])], [one])
    hold_to_tolerance(backend.next_token_dist_batch(PROMPTS), many)
    assert (backend.stats.cache_hits, backend.stats.failed_computes) == (0, 0)


class ForgettingOne(BackendInstrumentation):
    """Forgets one prompt's value before it looks a batch up."""

    def cached_batch(self, *args: Any, **keywords: Any) -> Any:
        # The least recently used one: the first prompt's.
        self.cache.put(("something", "else", object(), 0), None)
        return super().cached_batch(*args, **keywords)


def test_hits_beside_an_evicted_value_that_may_not_be_kept_are_counted_once(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the long way: what was counted before the computation raised stays counted."""
    backend = make_backend(instrumentation=ForgettingOne(cache_maxsize=len(PROMPTS)))
    many = backend.next_token_dist_batch(PROMPTS)
    before = backend.stats.cache_hits
    monkeypatch.setattr(Call, "may_keep", lambda _, value: value is None)
    hold_to_tolerance(backend.next_token_dist_batch(PROMPTS), many)
    assert backend.stats.cache_hits - before == len(PROMPTS) - 1
    assert backend.stats.failed_computes == 1
