"""Claims: what ``generate`` returns is what the new tokens add to the prompt's text."""

from typing import Any

import pytest
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
