"""Claims: differences with a sign have a mean that may cancel, and a size that doesn't."""

import json
import math

import numpy as np
import pytest

from forwardcache.statistics import interval_of_mean, signed_summary


def test_signs_cancel_in_the_mean_and_not_in_the_size() -> None:
    values = np.tile([0.5, -0.5, 0.25, -0.25], 10)
    found = signed_summary(values)
    assert (found.mean, found.mean_abs) == (0.0, 0.375)
    assert (found.better, found.worse) == (0.5, 0.5)
    assert found.interval.holds_zero
    assert not found.mean_abs_interval.holds_zero
    assert found.interval == interval_of_mean(values)
    json.dumps(found.as_json(), allow_nan=False)


def test_shares_are_of_distinct_texts() -> None:
    found = signed_summary([1.0, 1.0, 1.0, -1.0, 0.0], ["a", "a", "a", "b", "c"])
    assert [found.better, found.worse] == pytest.approx([1 / 3, 1 / 3])
    assert found.mean == pytest.approx(2 / 5)
    assert found.interval.texts == 3


def test_no_differences_have_no_figures() -> None:
    found = signed_summary([])
    assert math.isnan(found.mean)
    assert math.isnan(found.better)
    assert set(found.as_json().values()) == {None}
