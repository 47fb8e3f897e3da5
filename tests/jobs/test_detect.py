"""Claims: the smallest visible λ is found to 10 % in nine comparisons of a view, is told apart from
one below the smallest that is tried and from none at all, and is that of the same texts, positions
and reference as the floor's.

Not here: what a floor is (``hf/test_rounding_floor.py``), and when a view is told from it
(``statistics/test_floor.py``).
"""

from typing import Any

import numpy as np
import pytest
import torch

from forwardcache.hf import HFBackend
from forwardcache.hf.spec import scaled
from forwardcache.jobs.diff.detect import LEAST, RATIO, visible_from
from forwardcache.statistics import Floor, Positions, against_floor
from tests.hf import tiny
from tests.statistics.made import item

CHANCE = np.random.default_rng(3)
TEXTS = 30
ROUNDING = 1e-6 * CHANCE.lognormal(0.0, 0.3, (TEXTS, 20))


class Scaling:
    """A backend whose adapter moves a text by ``strength`` x λ² nats beyond rounding."""

    def __init__(self, strength: float, texts: int = TEXTS) -> None:
        self.strength = strength
        self.texts = texts
        self.asked: list[dict[str, Any]] = []
        self.lams: list[float] = []

    def as_scaled_adapter(self, lam: float) -> float:
        self.lams.append(lam)
        return lam

    def positions(self, lam: float) -> list[Any]:
        moved = ROUNDING[: self.texts] + self.strength * lam**2
        return [item([number, *range(20)], kl=kl) for number, kl in enumerate(moved)]

    def compare(self, texts: Any, views: list[float], **options: Any) -> dict[str, Any]:
        self.asked.append({"texts": texts, **options})
        return {scaled(lam).view_id: self.positions(lam) for lam in views}

    @property
    def floor(self) -> Floor:
        return Floor.of([Positions.of(self.positions(0.0))])


def found(backend: Any, **options: Any) -> Any:
    return visible_from(backend, ["text"] * TEXTS, backend.floor, **options)


@pytest.mark.parametrize("threshold", [0.0015, 0.01, 0.07, 0.4, 0.97])
def test_the_smallest_visible_scale_is_found_to_a_tenth(
    threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Scaling(1.0)
    seen: list[bool] = []

    class Verdict:
        def __init__(self, view: Positions, _: Floor) -> None:
            # The mean tells which λ it was.
            lam = np.sqrt(max(0.0, view.kl.mean() - ROUNDING.mean()))
            self.distinguishable = bool(lam >= threshold)
            seen.append(self.distinguishable)

    monkeypatch.setattr("forwardcache.jobs.diff.detect.against_floor", Verdict)
    smallest, least = found(backend)
    assert least == LEAST
    assert threshold <= smallest <= RATIO * threshold
    assert len(backend.lams) == len(seen) <= 9
    assert len(backend.asked) <= 8


def test_what_is_seen_at_the_smallest_scale_is_visible_from_there() -> None:
    backend = Scaling(1.0)
    assert found(backend) == (LEAST, LEAST)
    assert backend.lams == [1.0, LEAST]


@pytest.mark.parametrize("backend", [Scaling(0.0), Scaling(1.0, texts=19)])
def test_what_is_not_seen_whole_is_visible_from_nowhere(backend: Scaling) -> None:
    assert found(backend) == (None, LEAST)
    assert backend.lams == [1.0, LEAST]


def test_texts_positions_and_reference_are_those_that_are_given() -> None:
    backend = Scaling(1.0)
    ends = ["end"] * TEXTS
    found(backend, completions=ends, windows=True, reference="null:7")
    [asked] = backend.asked
    texts = ["text"] * TEXTS
    expected = {"texts": texts, "completions": ends, "windows": True, "reference": "null:7"}
    assert asked == expected
    # With all positions left out there is nothing to see.
    assert found(Scaling(1.0), skip_first=20)[0] is None


def test_a_real_adapter_is_seen_from_there_on_and_not_below() -> None:
    model = tiny.with_lora(tiny.llama(dtype=torch.bfloat16)).to(torch.bfloat16)
    with torch.no_grad():
        for layer in tiny.lora_layers(model):
            layer.lora_B["default"].weight.mul_(0.01)
    backend = HFBackend(model, tiny.tokenizer())
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "hello", "world"]
    texts = [" ".join(np.random.default_rng(each).permutation(words)) for each in range(24)]
    floor = backend.rounding_floor(texts)
    smallest, least = visible_from(backend, texts, floor)
    assert smallest is not None
    assert least < smallest < 1.0

    def is_seen(lam: float) -> bool | None:
        values = backend.compare(texts, [backend.as_scaled_adapter(lam)])
        [positions] = map(Positions.of, values.values())
        return against_floor(positions, floor).distinguishable

    assert is_seen(smallest)
    assert not is_seen(smallest / 2)
