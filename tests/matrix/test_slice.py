"""Claims: twenty model types and fifteen kinds of adapter are exact, or refused with a reason.

A slice of ``make matrix``, checked in this process; the whole takes minutes.
"""

from collections.abc import Iterator

import pytest
import torch

from tools.matrix.cases import cases
from tools.matrix.examine import verdict_on

# Full attention, windows, chunks, biases in place of positions, states, experts, indexers, latent
# attention, keys and values of other layers, experts with a loss, encoders that became decoders.
TYPES = (
    *("llama", "gpt2", "bart", "qwen3_moe", "mistral", "gemma2", "gemma3_text", "gemma4_text"),
    *("phi3", "llama4_text", "gpt_oss", "bloom", "mpt", "mamba", "qwen3_5_text", "lfm2"),
    *("deepseek_v3", "deepseek_v32", "bert", "roberta"),
)
ADAPTERS = (
    *("LoRA", "LoRA, all linear", "LoRA, GPT-2", "LoRA, rank and alpha patterns", "rsLoRA"),
    *("LoRA, embedding and head", "LoRA, experts' first projection", "LoRA, trained biases"),
    *("DoRA", "LoRA, head saved", "LoRA, trained tokens", "PiSSA", "LoRA merged"),
    *("LoRA, two active", "LoHa"),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", TYPES)
def test_a_type_is_scored_exactly_and_its_streams_are_greedy(name: str) -> None:
    if name not in cases():
        pytest.skip("not a type of the installed transformers")
    verdict = verdict_on(name)
    assert not verdict.not_built
    assert verdict.failures == {}
    assert verdict.parts["scoring"].outcome == verdict.parts["streams"].outcome == "ok", verdict
    # Else nothing that is wrong would be seen.
    assert verdict.hears > 0.002


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_view_of_an_adapter_is_exact_or_says_why_not(name: str) -> None:
    verdict = verdict_on(name)
    assert not verdict.not_built
    assert verdict.failures == {}
    assert all(finding.outcome in ("ok", "refused") for finding in verdict.parts.values()), verdict
