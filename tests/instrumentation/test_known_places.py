"""Claims: a hit on the very objects of an entry, found by its place, and a hit on a long fresh
``str``, whose hash is guessed, give what any other hit gives: the same value, the same order of
use, the same counts; and what left the cache is not found again by either.
"""

import gc
from random import Random

import pytest

from forwardcache.instrumentation import BackendInstrumentation, BackendStats, ForwardCache

OP, VIEW = "op", "view"


def fresh(text: str) -> str:
    """An equal ``str`` that is another object, without a hash."""
    return "".join((text[:1], text[1:]))


class Backend:
    """Values that tell which computation they are from."""

    def __init__(self, maxsize: int = 4) -> None:
        self.inst = BackendInstrumentation(cache_maxsize=maxsize)
        self.computed: list[str] = []

    def ask(self, prompt: str, view: str = VIEW, scope: bytes = b"") -> int:
        def compute() -> int:
            self.computed.append(prompt)
            return len(self.computed)

        value: int = self.inst.cached(OP, view, prompt, 8, compute, scope=scope)
        return value

    def ask_all(self, prompts: list[str]) -> list[int]:
        def compute(indices: list[int]) -> list[int]:
            self.computed += [prompts[at] for at in indices]
            return [1000 + at for at in indices]

        values: list[int] = self.inst.cached_batch(OP, VIEW, prompts, 8, compute)
        return values


@pytest.fixture(params=["same objects", "long fresh strings"])
def prompts(request: pytest.FixtureRequest) -> "Prompts":
    return Prompts(is_fresh=request.param == "long fresh strings")


class Prompts:
    """Prompts of which each is asked as one object, or as another each time."""

    def __init__(self, *, is_fresh: bool) -> None:
        self._is_fresh = is_fresh
        self._texts = [f"{number:03d}".ljust(400, "x") for number in range(20)]

    def __getitem__(self, at: int) -> str:
        return fresh(self._texts[at]) if self._is_fresh else self._texts[at]


def test_a_hit_is_the_value_again_and_counts(prompts: Prompts) -> None:
    backend = Backend()
    values = [backend.ask(prompts[at]) for at in (0, 1, 2)]
    for _ in range(100):
        assert [backend.ask(prompts[at]) for at in (0, 1, 2)] == values
    stats = backend.inst.stats
    assert (stats.cache_hits, stats.cache_misses) == (300, 3)
    assert stats.calls()[OP, VIEW].hits == 300
    assert stats.scoring_wall_s > 0


def test_what_was_evicted_is_computed_again(prompts: Prompts) -> None:
    backend = Backend(maxsize=2)
    backend.ask(prompts[0])
    before = [backend.ask(prompts[0]) for _ in range(3)]
    backend.ask(prompts[1])
    backend.ask(prompts[2])
    gc.collect()
    assert backend.ask(prompts[0]) not in before


def test_hits_save_from_eviction_in_the_order_of_use(prompts: Prompts) -> None:
    backend = Backend(maxsize=3)
    for at in (0, 1, 2, 0, 1, 2, 1, 0, 0, 1):
        backend.ask(prompts[at])
    backend.ask(prompts[3])
    # 2 was used longest ago, then 0.
    backend.computed.clear()
    backend.ask(prompts[2])
    backend.ask(prompts[0])
    assert [text[:3] for text in backend.computed] == ["002", "000"]


@pytest.mark.parametrize("end", ["clear", "invalidate", "replace the value", "replace the cache"])
def test_what_left_the_cache_is_not_found(prompts: Prompts, end: str) -> None:
    backend = Backend()
    backend.ask(prompts[0])
    for _ in range(3):
        before = backend.ask(prompts[0])
    cache = backend.inst.cache
    if end == "clear":
        cache.clear()
    elif end == "invalidate":
        backend.inst.invalidate(VIEW)
    elif end == "replace the value":
        cache.put((OP, VIEW, prompts[0], 8), -1)
        assert backend.ask(prompts[0]) == -1
        return
    else:
        backend.inst.cache = ForwardCache(4)
    assert backend.ask(prompts[0]) == before + 1


def test_view_and_scope_are_part_of_what_is_known(prompts: Prompts) -> None:
    backend = Backend(maxsize=16)
    asked = [(VIEW, b""), ("other", b""), (VIEW, b"scope"), (VIEW, b"another")]
    first = [backend.ask(prompts[0], view, scope) for view, scope in asked]
    assert len(set(first)) == 4
    for _ in range(20):
        assert [backend.ask(prompts[0], view, scope) for view, scope in asked] == first


def test_statistics_that_were_replaced_count_from_then_on(prompts: Prompts) -> None:
    backend = Backend()
    for _ in range(20):
        backend.ask(prompts[0])
    backend.inst.stats = BackendStats()
    for _ in range(20):
        backend.ask(prompts[0])
    assert backend.inst.stats.cache_hits == 20
    assert backend.inst.stats.scoring_wall_s > 0, "its first hit is timed"


def test_batches_in_any_order_are_what_single_calls_are(prompts: Prompts) -> None:
    random, backend = Random(5), Backend(maxsize=12)
    known: dict[str, int] = {}
    for turn in range(200):
        numbers = random.choices(range(8), k=6) if turn % 3 else list(range(8))
        texts = [prompts[at] for at in numbers]
        values = backend.ask_all(texts)
        for text, value in zip(texts, values, strict=True):
            assert known.setdefault(text, value) == value
        if turn % 5 == 0:
            some = prompts[random.randrange(8)]
            assert backend.ask(some) == known.get(some, len(backend.computed))
            known.setdefault(some, backend.ask(some))


def test_long_prompts_that_are_alike_where_they_are_looked_at_keep_their_values() -> None:
    # Of one length, and different in one character only: most of them have one fingerprint.
    texts = ["y" * at + "z" + "y" * (600 - at) for at in range(601)]
    backend = Backend(maxsize=1000)
    first = [backend.ask(fresh(text)) for text in texts]
    assert len(set(first)) == len(texts)
    assert [backend.ask(fresh(text)) for text in texts] == first
    assert backend.inst.stats.cache_hits == len(texts)


def test_text_of_any_width_is_recognized() -> None:
    backend = Backend(maxsize=10)
    for letter in ("a", "\xe9", "\u03b1", "\U0001f600", "\ud800"):
        text = letter * 300
        value = backend.ask(fresh(text))
        assert [backend.ask(fresh(text)) for _ in range(3)] == [value] * 3
    assert backend.inst.stats.cache_misses == 5


class Loud(str):
    """A ``str`` whose equality Python code decides: never the text's."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = str.__hash__


def test_a_subclass_is_asked_itself() -> None:
    backend = Backend()
    text = "q" * 400
    value = backend.ask(text)
    loud = Loud(text)
    assert [backend.ask(loud), backend.ask(text)] == [value + 1, value]
    assert [backend.ask(loud) for _ in range(3)] == [value + 1] * 3
