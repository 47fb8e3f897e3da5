"""Claims: ``NotTeacherForced`` is said of values that are, in their right places, within the limit;
values that lie above it wherever they are put are ``WrongValues``, also where most are right.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from forwardcache.conformance.adapter import NotTeacherForced, WrongScale, WrongValues
from forwardcache.conformance.adapter.diagnose import Case, diagnosis
from forwardcache.hf.planting.exact import Values

TOKENS, TOP = 80, 64
CAP_NATS = 0.05
DICE = np.random.default_rng(5)

Nats = NDArray[np.float64]


class OneText:
    """The exact values of a model in which every given token is among the likely ones."""

    def __init__(self) -> None:
        drawn: Nats = -np.sort(DICE.exponential(2.5, (TOKENS, TOP)), axis=1)
        # They have nine tenths of the whole.
        self.top: Nats = drawn - np.log(np.exp(drawn).sum(axis=1, keepdims=True) / 0.9)
        self.logprobs = self.drawn()

    def drawn(self) -> Nats:
        """Values of likely tokens, another in each place."""
        chosen: Nats = self.top[np.arange(TOKENS), DICE.integers(0, 12, TOKENS)]
        return chosen

    def values(self, *_: Any) -> tuple[Values, ...]:
        """Those of the one text."""
        return (Values(self.logprobs, self.top),)


EXACT = OneText()
SOME = DICE.random(TOKENS) < 0.4


def found(given: Nats, exact: Any = EXACT) -> Any:
    texts = [tuple(range(TOKENS + 1))]
    return diagnosis(Case(exact, None, texts, [given], CAP_NATS, CAP_NATS, "asked for the base"))


@pytest.mark.parametrize(
    "given",
    [
        np.append(EXACT.logprobs[1:], 0.0),
        np.append(0.0, EXACT.logprobs[:-1]),
        EXACT.top[:, 0],
        EXACT.drawn(),
        EXACT.drawn() + DICE.normal(0.0, 0.004, TOKENS),
        np.where(SOME, EXACT.drawn(), EXACT.logprobs),
    ],
    ids=["next", "before", "likeliest", "sampled", "sampled in 16 bits", "sampled where refused"],
)
def test_values_of_other_tokens_are_told(given: Nats) -> None:
    assert isinstance(found(given), NotTeacherForced)


@pytest.mark.parametrize(
    "given",
    [
        np.where(SOME, EXACT.logprobs - 1.7 * DICE.random(TOKENS), EXACT.logprobs),
        EXACT.logprobs + DICE.normal(0.0, 0.5, TOKENS),
        np.append(EXACT.logprobs[1:], 0.0) + DICE.normal(0.0, 0.5, TOKENS),
        0.7 * EXACT.logprobs,
        np.where(np.arange(TOKENS) < 3, EXACT.drawn() - 9.0, EXACT.logprobs),
    ],
    ids=["right in most places", "of other weights", "shifted and of others", "cooler", "few off"],
)
def test_values_above_the_limit_wherever_they_are_put_are_only_wrong(given: Nats) -> None:
    assert isinstance(found(given), WrongValues)


def test_an_explanation_that_is_hardly_nearer_than_the_right_values_is_none() -> None:
    exact = OneText()
    exact.logprobs = np.linspace(-2.0, -2.0 - 0.5 * CAP_NATS * (TOKENS - 1), TOKENS)
    # The next token's values are 0.6 of the limit away, and so within it.
    assert isinstance(found(exact.logprobs - 1.1 * CAP_NATS, exact), WrongValues)


def test_a_scale_of_a_part_names_it() -> None:
    assert "head alone: the adapter has the wrong scale: 0.5 times" in str(WrongScale(0.5, "head"))
    assert str(WrongScale(0.5)).startswith("the adapter has the wrong scale: 0.5 times")
