"""Claims: every row once, budget and padding cap kept, longest first, duplicates dropped."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwardcache.errors import InvalidInputError
from forwardcache.hf.batch.plan import distinct, plan_batches

lengths_of_rows = st.lists(st.integers(1, 200), max_size=60)
budgets = st.integers(1, 600)
caps = st.floats(0, 1)


@given(lengths_of_rows, budgets, caps, st.none() | st.integers(1, 5))
def test_every_row_stands_in_one_batch_within_all_limits(
    lengths: list[int], budget: int, cap: float, max_rows: int | None
) -> None:
    plan = plan_batches(lengths, token_budget=budget, max_padding=cap, max_rows=max_rows)
    assert sorted(item for batch in plan for item in batch.items) == list(range(len(lengths)))
    for batch in plan:
        rows = [lengths[item] for item in batch.items]
        assert batch.longest == max(rows)
        assert batch.tokens == sum(rows)
        assert len(rows) == 1 or len(rows) * max(rows) <= budget
        assert batch.padding <= cap + 1e-9
        assert max_rows is None or len(rows) <= max_rows


@given(lengths_of_rows, budgets, caps)
def test_rows_come_longest_first(lengths: list[int], budget: int, cap: float) -> None:
    plan = plan_batches(lengths, token_budget=budget, max_padding=cap)
    planned = [lengths[item] for batch in plan for item in batch.items]
    assert planned == sorted(lengths, reverse=True)


@given(lengths_of_rows, budgets, caps)
def test_no_batch_is_closed_early(lengths: list[int], budget: int, cap: float) -> None:
    plan = plan_batches(lengths, token_budget=budget, max_padding=cap)
    for batch, following in itertools.pairwise(plan):
        positions = (len(batch.items) + 1) * batch.longest
        padding = positions - batch.tokens - lengths[following.items[0]]
        assert positions > budget or padding > cap * positions


@given(lengths_of_rows, budgets, st.none() | st.integers(1, 5))
def test_packed_rows_fill_the_budget_with_tokens_and_know_no_cap(
    lengths: list[int], budget: int, max_rows: int | None
) -> None:
    plan = plan_batches(
        lengths, token_budget=budget, max_padding=0.0, max_rows=max_rows, packed=True
    )
    planned = [lengths[item] for batch in plan for item in batch.items]
    assert planned == sorted(lengths, reverse=True)
    for batch in plan:
        assert batch.positions == batch.tokens == sum(lengths[item] for item in batch.items)
        assert batch.padding == 0.0
        assert len(batch.items) == 1 or batch.tokens <= budget
    for batch, following in itertools.pairwise(plan):
        is_full = len(batch.items) == max_rows
        assert is_full or batch.tokens + lengths[following.items[0]] > budget


def test_without_padding_allowed_only_equal_lengths_share_a_batch() -> None:
    plan = plan_batches([3, 5, 3, 4], token_budget=100, max_padding=0.0)
    assert [batch.items for batch in plan] == [(1,), (3,), (0, 2)]


def test_a_row_beyond_the_budget_runs_alone() -> None:
    plan = plan_batches([50, 2], token_budget=10)
    assert [batch.items for batch in plan] == [(0,), (1,)]


@pytest.mark.parametrize(
    ("budget", "cap", "lengths"), [(0, 0.1, [1]), (8, -0.1, [1]), (8, 1.5, [1]), (8, 0.1, [0])]
)
def test_limits_out_of_range_are_refused(budget: int, cap: float, lengths: list[int]) -> None:
    with pytest.raises(InvalidInputError):
        plan_batches(lengths, token_budget=budget, max_padding=cap)


@given(st.lists(st.text(max_size=2)))
def test_distinct_keeps_the_first_of_each_and_restores_all(items: list[str]) -> None:
    firsts, kind_of = distinct(items)
    kinds = [items[first] for first in firsts]
    assert len(set(kinds)) == len(kinds)
    assert [kinds[kind] for kind in kind_of] == items
