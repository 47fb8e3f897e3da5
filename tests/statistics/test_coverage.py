"""Claims: 95 % intervals hold a known truth about as often as they say, with texts of different
lengths and levels, some of which stand several times. The whole is ``python -m benches.coverage``.
"""

import pytest

from benches.coverage import coverage


@pytest.mark.parametrize(
    ("texts", "sigma", "least"),
    [(20, 0.3, 0.88), (20, 0.7, 0.88), (50, 0.7, 0.88), (100, 0.7, 0.9), (300, 0.7, 0.905)],
)
def test_intervals_of_skewed_means_hold_the_truth(texts: int, sigma: float, least: float) -> None:
    held, below, above = coverage("skewed", texts, sigma, experiments=750, seed=1)
    assert least <= held <= 0.97
    assert held + below + above == pytest.approx(1.0)


@pytest.mark.parametrize(("texts", "share"), [(20, 0.3), (50, 0.01), (50, 0.05), (300, 0.01)])
def test_intervals_of_shares_hold_the_truth(texts: int, share: float) -> None:
    held, _, _ = coverage("shares", texts, share, experiments=750, seed=1)
    assert held >= 0.91


@pytest.mark.parametrize("texts", [20, 50])
def test_where_hardly_a_text_differs_the_interval_of_a_share_still_holds_the_truth(
    texts: int,
) -> None:
    # Of 20 texts two in three have no such position: a resampled interval would be [0, 0] there.
    held, _, _ = coverage("shares", texts, 0.002, experiments=500, seed=1)
    assert held >= 0.93
