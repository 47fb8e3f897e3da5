"""Claims: which tokens are read and which are scored, for every way a boundary can fall.

The tokenizers are BPE here; ``test_boundary`` has SentencePiece.
"""

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from forwardcache.errors import (
    ContextLengthError,
    EmptyCompletionError,
    EmptyPromptError,
    InvalidInputError,
)
from forwardcache.hf import HFBackend
from forwardcache.hf.text.encode import Encoder, EncodingOptions
from tests.hf import tiny

_TEMPLATE = "{{ bos_token }}[{{ messages[0]['content'] }}]"


def encoder(tokenizer: Any, max_positions: int | None = None, **options: Any) -> Encoder:
    return Encoder(tokenizer, EncodingOptions(**options), max_positions)


class SlowTokenizer:
    """The same tokens without offsets, as a tokenizer in Python gives them."""

    is_fast = False

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.bos_token_id = inner.bos_token_id

    def __call__(self, text: str, *, return_offsets_mapping: bool, **options: Any) -> Any:
        assert not return_offsets_mapping
        return self._inner(text, **options)


@pytest.fixture(scope="module")
def merging() -> Any:
    """Merges ``ab`` and ``abc``; has no BOS."""
    vocab = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, " ": 5}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b"), ("ab", "c")]))
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    return tiny.around(inner)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("pair", "ids", "scored"),
    [
        (("c ", "ab"), (2, 5, 3), (3,)),  # the boundary is a token boundary
        (("c a", "b"), (2, 5, 3), (3,)),  # one token spans it: completion
        (("c a", "bc a"), (2, 5, 4, 5, 0), (4, 5, 0)),
        (("c ab", " "), (2, 5, 3, 5), (5,)),
    ],
)
def test_the_completions_tokens_are_those_that_end_after_the_prompt(
    merging: Any, slow: bool, pair: tuple[str, str], ids: Any, scored: Any
) -> None:
    tokenizer = SlowTokenizer(merging) if slow else merging
    encoded = encoder(tokenizer).encode("pair", pair)
    assert (encoded.token_ids, encoded.scored) == (ids, scored)
    assert encoded.fed == ids[:-1]


def test_the_last_scored_token_is_not_read_but_a_prompts_last_is(tokenizer: Any) -> None:
    ids = tuple(tokenizer("hello world")["input_ids"])
    assert encoder(tokenizer).encode("text", "hello world").fed == ids[:-1]
    assert encoder(tokenizer).encode("prompt", "hello world").fed == ids


def test_multibyte_characters_before_the_boundary_belong_to_the_prompt(tokenizer: Any) -> None:
    encoded = encoder(tokenizer).encode("pair", ("€ü", "€x"))
    alone = tokenizer("€x", add_special_tokens=False)["input_ids"]
    assert encoded.scored == tuple(alone)


def test_an_empty_prompt_begins_with_bos_if_there_is_one(tokenizer: Any) -> None:
    assert encoder(tokenizer).encode("prompt", "").token_ids == (0,)
    plain = encoder(tokenizer, add_special_tokens=False)
    assert plain.encode("prompt", "").token_ids == (0,)
    pair = plain.encode("pair", ("", "hello"))
    assert pair.token_ids[0] == 0
    assert pair.first_scored == 1


@pytest.mark.parametrize(
    ("form", "item"), [("prompt", ""), ("pair", ("", "a")), ("pair", ("a", "b"))]
)
def test_nothing_before_the_first_scored_token_needs_a_bos(
    merging: Any, form: Any, item: Any
) -> None:
    with pytest.raises(EmptyPromptError, match="no BOS"):
        encoder(merging).encode(form, item)


def test_an_empty_completion_is_refused(tokenizer: Any) -> None:
    with pytest.raises(EmptyCompletionError):
        encoder(tokenizer).encode("pair", ("hello", ""))


def test_a_completion_that_adds_no_token_is_refused() -> None:
    inner = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    spaceless = tiny.around(inner, bos_token="a")
    with pytest.raises(EmptyCompletionError, match="adds no token"):
        encoder(spaceless).encode("pair", ("a", "  "))


def test_tokens_that_the_tokenizer_adds_at_the_end_are_not_scored(tokenizer: Any) -> None:
    ending: Any = tiny.tokenizer()
    ending.add_eos_token = True
    ending.update_post_processor()
    assert ending("hello")["input_ids"][-1] == ending.eos_token_id
    encoded = encoder(ending).encode("pair", ("hello", " world"))
    assert ending.eos_token_id not in encoded.token_ids


def test_the_context_length_counts_what_is_read(tokenizer: Any) -> None:
    length = len(tokenizer("hello world the")["input_ids"])
    limited = encoder(tokenizer, length - 1)
    assert limited.encode("text", "hello world the")
    assert limited.encode("pair", ("hello world", " the"))
    with pytest.raises(ContextLengthError, match=rf"^{length} tokens .* {length - 1}$"):
        limited.encode("prompt", "hello world the")


@pytest.mark.parametrize("item", [7, None, b"bytes", ("a", "b")])
def test_a_prompt_that_is_no_str_is_refused(tokenizer: Any, item: Any) -> None:
    with pytest.raises(InvalidInputError, match="must be a str"):
        encoder(tokenizer).encode("prompt", item)


@pytest.mark.parametrize("item", ["ab", ("a",), ("a", 1), 5, ("a", "b", "c")])
def test_a_pair_that_is_no_pair_of_str_is_refused(tokenizer: Any, item: Any) -> None:
    with pytest.raises(InvalidInputError):
        encoder(tokenizer).encode("pair", item)


def test_a_lone_surrogate_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InvalidInputError, match="can't read"):
        encoder(tokenizer).encode("prompt", "a\ud800")


def test_a_chat_template_frames_prompts_and_brings_its_own_bos(tokenizer: Any) -> None:
    framed = encoder(tokenizer, chat_template=_TEMPLATE)
    expected = tuple(tokenizer("[hello]")["input_ids"])
    assert framed.encode("prompt", "hello").token_ids == expected
    assert framed.encode("text", "hello").token_ids == tuple(tokenizer("hello")["input_ids"])
    pair = framed.encode("pair", ("hello", "fox"))
    assert pair.token_ids[: pair.first_scored] == expected


def test_options_have_keys_of_their_own() -> None:
    options = [
        EncodingOptions(),
        EncodingOptions(add_special_tokens=False),
        EncodingOptions(chat_template=True),
        EncodingOptions(chat_template=_TEMPLATE),
        EncodingOptions(chat_template="True"),
    ]
    assert len({each.key for each in options}) == len(options)


def test_an_item_is_tokenized_once(tokenizer: Any) -> None:
    calls = []

    class Counting(SlowTokenizer):
        def __call__(self, text: str, **options: Any) -> Any:
            calls.append(text)
            return super().__call__(text, **options)

    counted = encoder(Counting(tokenizer))
    assert counted.encode("prompt", "hello") is counted.encode("prompt", "hello")
    assert calls == ["hello"]


def test_what_is_remembered_is_bounded(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "_MAX_TOKENS", 20)
    bounded = encoder(tokenizer)
    first = bounded.encode("prompt", "hello world")
    for number in range(20):
        bounded.encode("prompt", f"hello {number}")
    assert bounded.encode("prompt", "hello world") is not first
    assert bounded._known_tokens <= 20


@pytest.mark.parametrize("form", ["prompt", "text"])
@pytest.mark.parametrize("text", ["hello world", ""])
def test_an_end_that_the_tokenizer_adds_is_no_part_of_a_prompt(form: Any, text: str) -> None:
    ending: Any = tiny.tokenizer()
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert ending(text)["input_ids"][-1] == ending.eos_token_id
    assert encoder(ending).encode(form, text) == encoder(tiny.tokenizer()).encode(form, text)


@pytest.mark.parametrize(
    ("template", "before"), [("$A <e>", 0), ("<e> $A <e>", 1), ("<e> $A", 1), ("<e> <e> $A <e>", 2)]
)
def test_one_token_as_bos_and_eos_is_kept_before_a_text_and_left_out_behind_it(
    template: str, before: int
) -> None:
    inner = tiny.tokenizer(bos=False).backend_tokenizer
    inner.add_special_tokens(["<e>"])
    end = inner.token_to_id("<e>")
    inner.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<e>", end)]
    )
    one = encoder(tiny.around(inner, bos_token="<e>", eos_token="<e>"))
    own = tuple(inner.encode("hello", add_special_tokens=False).ids)
    for form in ("prompt", "text"):
        assert one.encode(form, "hello").token_ids == (*[end] * before, *own)
        assert one.encode(form, "hello<e>").token_ids == (*[end] * before, *own, end)
    assert one.encode("text", "").token_ids == (end,) * before
    assert one.encode("prompt", "").token_ids == (end,) * max(before, 1)


DRAWING: dict[str, Any] = {
    "BPE": lambda: models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")], dropout=0.1),
}
# Before tokenizers 0.23 a Unigram model can't be told to.
if hasattr(models.Unigram, "alpha"):
    DRAWING["Unigram"] = lambda: models.Unigram(
        [("a", -1.0), ("aa", -1.5)], 0, alpha=0.1, nbest_size=8
    )


@pytest.mark.parametrize("name", DRAWING)
def test_a_tokenizer_that_draws_is_refused_when_it_is_given(name: str) -> None:
    drawing = tiny.around(Tokenizer(DRAWING[name]()))
    # Some of a model's settings are lost where transformers copies it.
    drawing.backend_tokenizer.model = DRAWING[name]()
    with pytest.raises(InvalidInputError, match="draws"):
        HFBackend(tiny.llama(), drawing)
    with HFBackend(tiny.llama(), tiny.tokenizer()) as backend:
        backend.tokenizer = drawing
        with pytest.raises(InvalidInputError, match="draws"):
            backend.next_token_dist("ab")


def test_dropout_that_is_set_later_is_refused_and_taken_back_is_not(tokenizer: Any) -> None:
    with HFBackend(tiny.llama(), tiny.tokenizer()) as backend:
        value = backend.logprob_of("the", " dog")
        backend.tokenizer.backend_tokenizer.model.dropout = 0.5
        with pytest.raises(InvalidInputError, match=r"dropout 0\.5.* to None"):
            backend.logprob_of("the", " dog")
        backend.tokenizer.backend_tokenizer.model.dropout = None
        assert backend.logprob_of("the", " dog") == value


def test_a_tokenizer_in_python_that_draws_is_refused(tokenizer: Any) -> None:
    class Drawing(SlowTokenizer):
        def __call__(self, text: str, **options: Any) -> Any:
            found = super().__call__(text, **{"return_offsets_mapping": False} | options)
            cut = random.randrange(1, len(found["input_ids"]))
            return {key: value[:cut] for key, value in found.items()}

    with pytest.raises(InvalidInputError, match="different encodings"):
        HFBackend(tiny.llama(), Drawing(tokenizer))


def test_a_text_that_begins_with_the_bos_that_is_added_is_warned_of_once(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with HFBackend(tiny.llama(), tokenizer) as backend:
        backend.next_token_dist("hello <s>")
        backend.continuation_logprob([0, 0], [1])
        assert not caplog.records
        backend.next_token_dist("<s>hello")
        backend.logprob_of("<s>hello", " world")
        backend.weights_changed()
        backend.rolling_logprob("<s>hello")
    assert [record.name for record in caplog.records] == ["forwardcache"]
    assert "reads it twice" in caplog.text
    caplog.clear()
    with HFBackend(tiny.llama(), tokenizer, add_special_tokens=False) as backend:
        backend.next_token_dist("<s>hello")
    assert not caplog.records
