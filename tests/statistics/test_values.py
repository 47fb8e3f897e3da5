"""Claims: values of which a prompt has one come to a mean with its interval, percentiles and, where
they have signs, sizes and shares; of many views at once what each has alone.
"""

import json
import math

import numpy as np
import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.statistics import Values, interval_of_mean, signed_summary, value_figures

NATS = np.random.default_rng(0).lognormal(0.0, 1.0, 60)
TEXTS = [f"text {n % 40}" for n in range(60)]


def test_divergences_have_a_mean_an_interval_and_percentiles() -> None:
    [found] = value_figures([Values(NATS, TEXTS)], is_signed=False)
    assert found.spread.mean == pytest.approx(NATS.mean())
    assert found.spread.interval == interval_of_mean(NATS, TEXTS)
    assert found.spread.interval.texts == 40
    assert [found.spread.median, found.spread.p90, found.spread.max] == pytest.approx(
        [*np.percentile(NATS, [50, 90]), NATS.max()]
    )
    assert (found.least, found.signed) == (NATS.min(), None)
    assert (found.size, found.size_interval) == (found.spread.mean, found.spread.interval)


def test_differences_with_a_sign_have_sizes_and_shares_too() -> None:
    deltas = NATS * np.where(np.arange(60) % 3, 1.0, -1.0)
    [found] = value_figures([Values(deltas, TEXTS)], is_signed=True)
    assert found.signed == signed_summary(deltas, TEXTS)
    assert found.size == found.signed.mean_abs == pytest.approx(NATS.mean())
    assert found.size_interval == found.signed.mean_abs_interval
    told = found.as_json()
    assert {"mean", "interval", "median", "max", "mean_abs", "better", "worse"} <= set(told)
    json.dumps(told, allow_nan=False)


def test_a_view_has_the_same_figures_beside_others() -> None:
    views = [Values(NATS, TEXTS), Values(NATS[:30] - 1.0), Values(NATS[::-1], TEXTS)]
    together = value_figures(views, is_signed=True)
    assert str(together) == str([value_figures([one], is_signed=True)[0] for one in views])


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    values = [None, 1.0, math.nan, math.inf, 3.0]
    [found] = value_figures([Values(values, list("abcde"))], is_signed=False)
    assert (found.prompts, found.not_finite) == (2, 3)
    assert (found.spread.mean, found.spread.max) == (2.0, 3.0)
    assert found.spread.interval.texts == 2


def test_where_equal_texts_are_not_known_there_is_no_interval() -> None:
    [found] = value_figures([Values(NATS)], is_signed=False)
    assert found.spread.interval.as_json() is None
    assert found.spread.mean == pytest.approx(NATS.mean())


def test_no_values_have_no_figures() -> None:
    [found] = value_figures([Values([])], is_signed=True)
    assert (found.prompts, found.not_finite) == (0, 0)
    assert set(found.as_json().values()) == {None}


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="2 names of texts for values of shape"):
        value_figures([Values([1.0, 2.0, 3.0], ["a", "b"])], is_signed=False)
