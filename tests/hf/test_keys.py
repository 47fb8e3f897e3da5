"""Claims: nothing that decides a value is left out of its key, or shortened in it."""

from typing import Any

import pytest

from forwardcache.hf import HFBackend
from forwardcache.hf.spec import matched_null, null, scaled, tagged
from forwardcache.hf.text.encode import EncodingOptions
from forwardcache.operations.next_token_dist import NextTokenDist
from tests.hf.conftest import MakeBackend
from tests.tolerance import TOLERANCE

PROMPT = "hello world"


def passes_of_two(backend: HFBackend, first: Any, second: Any) -> int:
    """Forwards that two views need for one prompt."""
    for open_view in (first, second):
        with open_view(backend) as view:
            view.next_token_dist(PROMPT)
    return backend.stats.forward_passes


PAIRS_OF_VIEWS = {
    "lambda 1.001 and 0.996": (
        lambda backend: backend.as_scaled_adapter(1.001),
        lambda backend: backend.as_scaled_adapter(0.996),
    ),
    "init_scale 0.02 and 1.0": (
        lambda backend: backend.as_null_adapter(7, init_scale=0.02),
        lambda backend: backend.as_null_adapter(7, init_scale=1.0),
    ),
    "rank_scale 1.004 and 1.001": (
        lambda backend: backend.as_null_adapter(7, rank_scale=1.004),
        lambda backend: backend.as_null_adapter(7, rank_scale=1.001),
    ),
    "seed 7 and 8": (
        lambda backend: backend.as_null_adapter(7),
        lambda backend: backend.as_null_adapter(8),
    ),
    "norm 0.504 and 0.496": (
        lambda backend: backend.as_null_adapter(7, matched=True, lam=0.504),
        lambda backend: backend.as_null_adapter(7, matched=True, lam=0.496),
    ),
    "matched and not": (
        lambda backend: backend.as_null_adapter(7, matched=True),
        lambda backend: backend.as_null_adapter(7),
    ),
    "base and ft": (lambda backend: backend.as_base(), lambda backend: backend.as_finetuned()),
}


@pytest.mark.parametrize("views", PAIRS_OF_VIEWS.values(), ids=PAIRS_OF_VIEWS.keys())
def test_two_views_never_get_each_others_value(views: Any, make_backend: MakeBackend) -> None:
    assert passes_of_two(make_backend(), *views) == 2


@pytest.mark.parametrize("views", PAIRS_OF_VIEWS.values(), ids=PAIRS_OF_VIEWS.keys())
def test_a_view_is_served_its_own_value(views: Any, make_backend: MakeBackend) -> None:
    assert passes_of_two(make_backend(), views[0], views[0]) == 1


def test_prompt_and_completion_are_not_joined(make_backend: MakeBackend) -> None:
    backend = make_backend()
    pairs = [("a\0b", "c"), ("a", "b\0c"), ("a\0", "bc")]
    alone = [make_backend().logprob_of(*pair) for pair in pairs]
    assert [backend.logprob_of(*pair) for pair in pairs] == alone
    assert backend.stats.forward_passes == len(pairs)
    assert backend.logprob_of_batch(pairs) == alone
    assert backend.stats.forward_passes == len(pairs)


def test_the_ids_of_logprobs_at_are_in_the_key(make_backend: MakeBackend) -> None:
    backend = make_backend()
    asked = [[1, 23], [12, 3], [1, 2, 3], [3, 12]]
    for ids in asked:
        assert len(backend.logprobs_at(PROMPT, ids)) == len(ids)
    assert backend.stats.forward_passes == len(asked)
    batched = backend.logprobs_at_batch([PROMPT] * len(asked), asked)
    assert backend.stats.forward_passes == len(asked)
    assert [len(each) for each in batched] == [len(ids) for ids in asked]


def test_one_batch_may_ask_for_other_ids_of_one_prompt(make_backend: MakeBackend) -> None:
    asked = [[1, 23], [7, 8, 9]]
    found = make_backend().logprobs_at_batch([PROMPT, PROMPT], asked)
    alone = [make_backend().logprobs_at(PROMPT, ids) for ids in asked]
    for batched, single in zip(found, alone, strict=True):
        assert batched.tolist() == pytest.approx(single.tolist(), abs=TOLERANCE)


def test_encoding_options_are_in_the_key(make_backend: MakeBackend) -> None:
    scorer = make_backend()._scorer
    options = [EncodingOptions(), EncodingOptions(False), EncodingOptions(prefix_token_id=1)]
    scopes = set()
    for scorer.options in options:
        scopes.add(scorer.begin(None, NextTokenDist(4), [PROMPT]).scope)
    assert len(scopes) == len(options)


def test_ops_and_top_k_are_in_the_key(make_backend: MakeBackend) -> None:
    backend = make_backend()
    assert len(backend.next_token_dist(PROMPT, top_k=3).token_ids) == 3
    assert len(backend.next_token_dist(PROMPT, top_k=4).token_ids) == 4
    backend.rolling_logprob(PROMPT)
    assert backend.stats.forward_passes == 3


def test_backends_that_share_a_cache_share_no_value(make_backend: MakeBackend) -> None:
    first = make_backend()
    options: list[dict[str, Any]] = [{}, {"add_special_tokens": False}]
    for option in options:
        other = make_backend(instrumentation=first.instrumentation, **option)
        other.next_token_dist(PROMPT)
    first.next_token_dist(PROMPT)
    assert first.stats.forward_passes == 3


def test_single_and_batched_forms_share_values(make_backend: MakeBackend) -> None:
    backend = make_backend()
    pair = (PROMPT, " the")
    batched = [
        backend.next_token_dist_batch([PROMPT])[0],
        backend.rolling_logprob_batch([PROMPT])[0],
        backend.logprob_of_batch([pair])[0],
        backend.logprobs_at_batch([PROMPT], [[4, 5]])[0],
    ]
    single = [
        backend.next_token_dist(PROMPT),
        backend.rolling_logprob(PROMPT),
        backend.logprob_of(*pair),
        backend.logprobs_at(PROMPT, [4, 5]),
    ]
    assert all(left is right for left, right in zip(batched, single, strict=True))
    assert backend.stats.forward_passes == 4


def test_fields_can_not_run_into_each_other() -> None:
    assert tagged([b"ab", b"c"]) != tagged([b"a", b"bc"])
    assert tagged([b""]) != tagged([])


def test_parameters_are_exact_in_the_key() -> None:
    specs = [
        scaled(0.1),
        scaled(0.1 + 2**-56),
        scaled(-0.1),
        null(1, 0.1, 1.0),
        null(1, 1.0, 0.1),
        null(11, 0.1, 1.0),
        null(1, 0.02, 1.0),
        matched_null(1),
        matched_null(1, 0.5),
        matched_null(1, 0.504),
        matched_null(11),
    ]
    assert len({tagged(spec.key_fields) for spec in specs}) == len({*specs})
