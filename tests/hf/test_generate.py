"""Claims: what ``generate`` returns is what the new tokens add to the prompt's text. Greedy is the
argmax and sampling has temperature and top_p alone, whatever the model's own settings of generation
are; asked for, those that can be honoured decide as they do in transformers, others are refused.
"""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from forwardcache.errors import InvalidInputError
from forwardcache.hf import HFBackend
from forwardcache.hf.stream import generate as generation
from forwardcache.hf.stream.generate import continuation
from tests.hf import tiny
from tests.hf.conftest import MakeBackend


def sentencepiece() -> Any:
    """Words that begin with a metaspace, which decoding strips at the very beginning only."""
    words = ["<unk>", "<s>", "▁a", "▁b", "."]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return tiny.around(inner, bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize(
    ("prompt_ids", "new_ids", "text"),
    [
        pytest.param([1, 2], [3, 2], " b a", id="the space before the first new word"),
        pytest.param([2], [1, 3], " b", id="special tokens"),
        pytest.param([1], [2, 3], "a b", id="nothing before it"),
        pytest.param([2], [], "", id="nothing new"),
    ],
)
def test_the_text_written_on_is_what_the_new_tokens_add(
    prompt_ids: list[int], new_ids: list[int], text: str
) -> None:
    assert continuation(sentencepiece(), prompt_ids, new_ids) == text


def test_where_the_prompts_own_end_is_written_anew_the_common_beginning_is_cut() -> None:
    class Tidying:
        """Joins a full stop to the word before it."""

        def decode(self, ids: list[int], **_: Any) -> str:
            return " ".join("ab."[each] for each in ids).replace(" .", ".") + "!"

    assert continuation(Tidying(), [0], [1]) == " b!"
    assert continuation(Tidying(), [0], [2]) == ".!"


def test_generate_keeps_the_space_that_follows_the_prompt(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend("llama", tokenizer=sentencepiece())
    monkeypatch.setattr(generation, "new_tokens", lambda *_, **__: [3])
    assert backend.generate("a", max_new_tokens=1) == " b"


def test_a_token_that_the_model_can_not_read_ends_the_text_with_one_clear_error() -> None:
    with HFBackend(tiny.drawing_unreadable(), tiny.tokenizer()) as backend:
        with pytest.raises(InvalidInputError, match=f"drew token {tiny.VOCAB}, .*can't read"):
            backend.generate("hello", max_new_tokens=4)
        # Nothing has to follow the last one.
        assert isinstance(backend.generate("hello", max_new_tokens=1), str)


def test_a_text_ends_at_an_end_token_that_only_the_head_has() -> None:
    model = tiny.drawing_unreadable()
    model.generation_config.eos_token_id = tiny.VOCAB
    with HFBackend(model, tiny.tokenizer()) as backend:
        assert isinstance(backend.generate("hello", max_new_tokens=4), str)


# A model's own settings of generation


SETTINGS: dict[str, Any] = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "num_beams": 3,
    "num_return_sequences": 2,
    "forced_eos_token_id": 4,
    "forced_bos_token_id": 4,
    "suppress_tokens": list(range(100)),
    "begin_suppress_tokens": list(range(300)),
    "bad_words_ids": [[token] for token in range(200)],
    "min_length": 60,
    "min_new_tokens": 8,
    "guidance_scale": 2.0,
    "watermarking_config": {"bias": 9.0},
    "return_dict_in_generate": True,
    "stop_strings": ["a", "e", "t"],
    "penalty_alpha": 0.6,
    "exponential_decay_length_penalty": (1, 2.0),
    "min_p": 0.9,
    "typical_p": 0.2,
    "epsilon_cutoff": 0.2,
    "top_h": 0.3,
    "do_sample": True,
    "temperature": 9.0,
    "max_time": 1e-9,
    "use_cache": False,
    "cache_implementation": "static",
    "output_scores": True,
}
# Those that decide, or change no token, where they are asked for.
SERVED = {
    *("repetition_penalty", "min_length", "min_new_tokens", "return_dict_in_generate", "use_cache"),
    *("min_p", "do_sample", "temperature", "cache_implementation", "output_scores"),
}


def with_settings(**settings: Any) -> Any:
    model = tiny.llama()
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return model


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_models_own_settings_change_nothing(
    name: str, temperature: float, tokenizer: Any
) -> None:
    def written(model: Any) -> list[str]:
        with HFBackend(model, tokenizer) as backend:
            options: dict[str, Any] = {"temperature": temperature, "top_p": 0.9, "seed": 3}
            return [
                backend.generate(prompt, max_new_tokens=12, **options)
                for prompt in tiny.PROMPTS[:3]
            ]

    assert written(with_settings(**{name: SETTINGS[name]})) == written(tiny.llama())


def new_ids(backend: HFBackend, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[int]:
    found: list[int] = []

    def written(_tokenizer: Any, _fed: Any, ids: list[int]) -> str:
        found.extend(ids)
        return ""

    monkeypatch.setattr(generation, "continuation", written)
    backend.generate("the dog", max_new_tokens=12, **options)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.8},
        {"min_new_tokens": 9},
        {"min_length": 12},
        {"repetition_penalty": 1.3, "min_new_tokens": 4, "use_cache": False},
        {"num_beams": 1, "typical_p": 1.0, "no_repeat_ngram_size": 0, "length_penalty": 2.0},
    ],
)
def test_settings_that_are_asked_for_do_what_they_do_in_transformers(
    settings: dict[str, Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_settings(**settings)
    # One that is met at once without a minimum.
    ids = torch.tensor([tokenizer("the dog").input_ids])
    first = tiny.greedy(model, ids[0].tolist(), 1)[0]
    model.generation_config.eos_token_id = first
    right = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, pad_token_id=0
    )
    with HFBackend(model, tokenizer) as backend:
        found = new_ids(backend, monkeypatch, use_generation_config=True)
        assert found == right[0, ids.shape[1] :].tolist()
        assert new_ids(backend, monkeypatch) == [first]


def test_settings_of_sampling_are_taken_from_the_model(tokenizer: Any) -> None:
    sampled = with_settings(do_sample=True, temperature=0.7, top_p=0.8)
    with HFBackend(sampled, tokenizer) as own, HFBackend(tiny.llama(), tokenizer) as plain:
        asked = own.generate("the dog", max_new_tokens=12, seed=5, use_generation_config=True)
        options: dict[str, Any] = {"temperature": 0.7, "top_p": 0.8, "seed": 5}
        assert asked == plain.generate("the dog", max_new_tokens=12, **options)
    with HFBackend(with_settings(do_sample=True, temperature=9.0, top_k=1), tokenizer) as narrow:
        asked = narrow.generate("the dog", max_new_tokens=12, use_generation_config=True)
        assert asked == narrow.generate("the dog", max_new_tokens=12)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_is_asked_for_is_served_or_refused_by_its_name(
    name: str, tokenizer: Any
) -> None:
    with HFBackend(with_settings(**{name: SETTINGS[name]}), tokenizer) as backend:

        def write() -> str:
            return backend.generate("the dog", max_new_tokens=3, use_generation_config=True)

        if name in SERVED:
            assert isinstance(write(), str)
        else:
            with pytest.raises(InvalidInputError, match=name):
                write()


@pytest.mark.parametrize("options", [{"temperature": 0.5}, {"top_p": 0.5}])
def test_a_models_settings_and_ones_own_are_not_mixed(
    options: dict[str, Any], make_backend: MakeBackend
) -> None:
    with pytest.raises(InvalidInputError, match="use_generation_config"):
        make_backend("llama").generate("a", max_new_tokens=1, use_generation_config=True, **options)
