"""Claims: the context is as long as the model's own tables of positions, whatever its configuration
says: a prompt of that length runs, and one more token is the same error single and batched.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from forwardcache.errors import ContextLengthError
from forwardcache.hf import HFBackend, HFEngine
from forwardcache.hf.batch.context import max_positions
from tests.hf import tiny

ROWS = 40
BERTS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": ROWS,
}
BARTS: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
OPT: dict[str, Any] = {
    "hidden_size": 32,
    "ffn_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": ROWS,
    "word_embed_proj_dim": 16,
}
PROPHET: dict[str, Any] = {
    "hidden_size": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_encoder_attention_heads": 2,
    "num_decoder_attention_heads": 2,
    "max_position_embeddings": ROWS,
}
GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": ROWS}
WHISPER = BARTS | {"max_target_positions": ROWS, "max_source_positions": 20, "pad_token_id": 1}

# What each is made with, and the tokens that its table has rows for.
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "roberta": (BERTS | {"is_decoder": True}, ROWS - 2),
    "xlm-roberta-xl": (BERTS | {"is_decoder": True}, ROWS - 2),
    "data2vec-text": (BERTS | {"is_decoder": True}, ROWS - 2),
    "bert": (BERTS | {"is_decoder": True}, ROWS),
    "whisper": (WHISPER, ROWS),
    "bart": (BARTS | {"max_position_embeddings": ROWS}, ROWS),
    "marian": (BARTS | {"max_position_embeddings": ROWS, "pad_token_id": 9}, ROWS),
    "opt": (OPT, ROWS),
    "biogpt": (BERTS, ROWS),
    "gpt2": (GPT, ROWS),
}


def made(family: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, vocab_size=tiny.VOCAB, **options)
    return tiny.sharpened(transformers.AutoModelForCausalLM.from_config(config)).eval()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Any, int]:
    options, length = FAMILIES[request.param]
    return made(request.param, options), length


def text_of(length: int, tokenizer: Any) -> str:
    """A text of that many tokens: none of its letters is merged with another."""
    text = "Z" * (length - 1)
    assert len(tokenizer(text).input_ids) == length
    return text


def test_a_prompt_as_long_as_the_context_runs(family: tuple[Any, int], tokenizer: Any) -> None:
    model, length = family
    backend = HFBackend(model, tokenizer)
    found = backend.next_token_dist(text_of(length, tokenizer))
    assert tiny.agrees(found, model, tokenizer(text_of(length, tokenizer)).input_ids)


def asked(backend: HFBackend, text: str) -> list[tuple[Callable[..., Any], Any]]:
    return [
        (backend.next_token_dist_batch, text),
        # The last token is scored, and isn't read.
        (backend.rolling_logprob_batch, f"{text}Z"),
        (backend.logprob_of_batch, (text[:-3], f"{text[-3:]}Z")),
    ]


def test_one_token_more_is_the_same_error_single_and_batched(
    family: tuple[Any, int], tokenizer: Any
) -> None:
    model, length = family
    backend = HFBackend(model, tokenizer)
    text = text_of(length + 1, tokenizer)
    said = f"{length + 1} tokens are more than the model's context length of {length}"
    with pytest.raises(ContextLengthError, match=said):
        backend.next_token_dist(text)
    with pytest.raises(ContextLengthError, match=said):
        backend.logprob_of(text[:-3], f"{text[-3:]}Z")
    for batched, item in asked(backend, text):
        good = ("a", "b") if isinstance(item, tuple) else "hello world"
        first, second = batched([good, item], on_error="return")
        assert not isinstance(first, Exception)
        assert isinstance(second, ContextLengthError)
        assert said in str(second)


def test_the_engine_is_told_the_same_length(tokenizer: Any) -> None:
    options, _ = FAMILIES["gpt2"]
    model = made("gpt2", options)
    with torch.no_grad():
        # A table with fewer rows than the configuration says.
        rows = model.transformer.wpe.weight[: ROWS - 8].clone()
    model.transformer.wpe = torch.nn.Embedding.from_pretrained(rows)
    backend = HFBackend(model, tokenizer)
    assert HFEngine(backend, view="base")._config.context_length == ROWS - 8
    with pytest.raises(ContextLengthError):
        backend.next_token_dist(text_of(ROWS, tokenizer))


def test_a_table_that_ends_early_by_its_second_reader_counts(tokenizer: Any) -> None:
    # ProphetNet reads the next position as well.
    assert max_positions(made("prophetnet", PROPHET)) == ROWS - 2


def test_no_layer_runs_for_it_and_only_once(tokenizer: Any) -> None:
    model = made("gpt2", FAMILIES["gpt2"][0])
    ran: list[Any] = []
    model.register_forward_pre_hook(lambda *_: ran.append("model"))
    model.transformer.h[0].ln_1.register_forward_hook(lambda *_: ran.append("layer"))
    model.transformer.h[0].attn.c_attn.register_forward_hook(lambda *_: ran.append("work"))
    assert [max_positions(model) for _ in range(3)] == [ROWS] * 3
    assert ran == ["model", "layer"]


def test_without_a_table_no_forward_is_begun() -> None:
    model = copy.deepcopy(tiny.llama())
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    assert max_positions(model) == tiny.CONTEXT


def test_a_model_that_cannot_be_begun_has_what_its_configuration_says() -> None:
    model = made("gpt2", FAMILIES["gpt2"][0])

    def fails(*_: Any) -> None:
        raise ValueError("needs an image")

    model.register_forward_pre_hook(fails)
    assert max_positions(model) == ROWS


def test_the_smallest_of_several_numbers_counts() -> None:
    model = tiny.llama()
    model.config.max_target_positions = 7
    assert max_positions(model) == 7
