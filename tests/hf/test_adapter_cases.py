"""Claims: whichever method of PEFT an adapter is of, a view of it is exact or refused.

``CASES`` says which; here run those that differ in kind, and all of them for the page of models
(``tools/matrix``). Weights and flags are bit for bit the same afterwards, and
nothing that is known is run again.
"""

from typing import Any

import pytest

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf import HFBackend
from tests.hf import tiny
from tests.hf.adapter_cases import CASES, KINDS, NOT_TAKEN, WHOLE, Case
from tests.hf.adapter_oracle import PROMPTS, distances, expected, view_of
from tests.tolerance import TOLERANCE

RUN = (
    "LoRA, embedding and head tied",
    "LoRA, experts' first projection",
    "LoRA, router",
    "LoRA, biases asked for of a model without",
    "LoRA, trained biases",
    "LoRA, layers repeated",
    "LoRA and LoHa",
    "Arrow",
    "KaSA",
    "AdaLoRA",
    "AdaMSS",
    "IA3",
    "LILY",
    "LN tuning",
    "OFT",
    "Shadow",
    "SHiRA",
    "trainable tokens, tied",
    "VeRA",
    *NOT_TAKEN,
)


@pytest.mark.parametrize("name", RUN)
def test_a_view_of_an_adapter_is_exact_or_refused(name: str, tokenizer: Any) -> None:
    case = CASES[name]
    model = case.make()
    before = tiny.frozen_state(model)
    if WHOLE in case.refused:
        with pytest.raises(UnsupportedModelError, match=case.refused[WHOLE]):
            HFBackend(model, tokenizer)
        return
    backend = HFBackend(model, tokenizer)
    for kind in KINDS:
        if kind in case.exact:
            check_exact(backend, case, kind)
        else:
            with (
                pytest.raises(UnsupportedModelError, match=case.refused[kind]),
                view_of(backend, kind) as view,
            ):
                view.rolling_logprob(PROMPTS[0])
    assert tiny.frozen_state(model) == before


def check_exact(backend: HFBackend, case: Case, kind: str) -> None:
    with view_of(backend, kind) as view:
        found = max(distances(view, expected(case, kind, backend.tokenizer)))
        assert found < TOLERANCE, kind
        misses = backend.stats.cache_misses
        view.next_token_dist_batch(list(PROMPTS), top_k=tiny.VOCAB)
        assert backend.stats.cache_misses == misses, kind


@pytest.mark.parametrize("name", ["LILY", "aLoRA"])
def test_an_adapter_that_looks_at_a_whole_forward_has_one_prompt_in_each(
    name: str, tokenizer: Any
) -> None:
    case = CASES[name]
    right = expected(case, "ft", tokenizer)
    backend = HFBackend(case.make(), tokenizer)
    with backend.as_finetuned() as view:
        values = view.next_token_dist_batch(list(PROMPTS), top_k=tiny.VOCAB)
    for found, truth in zip(values, right, strict=True):
        best = truth[-1].max()
        assert abs(float(found.logprobs[0]) - float(best)) < TOLERANCE
