"""Claims: which tokens are a completion's, and which span the boundary, against explicit ids.

BPE whose merges cross words, byte-level BPE, and SentencePiece's two kinds (BPE and Unigram with a
metaspace), each with and without BOS and EOS, with and without offsets. Then what offsets don't
tell: markers that strip, trimmed offsets, composed letters, unknown words.
"""

import unicodedata
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer

from forwardcache.errors import EmptyCompletionError
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.text.encode import Encoder, EncodingOptions
from forwardcache.scoring import CompletionLogprob
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.hf.test_encode import SlowTokenizer

BOS, EOS = 1, 2
_SPECIAL = ["<unk>", "<s>", "</s>"]


def metaspace_unigram() -> Tokenizer:
    pieces = ["▁", "a", "b", "▁a", "▁b", "ab", "▁ab", "▁a▁b", "."]
    scores = [-4.0, -3.0, -3.0, -2.0, -2.0, -2.5, -1.5, -1.0, -2.0]
    vocab = [(word, 0.0) for word in _SPECIAL] + list(zip(pieces, scores, strict=True))
    inner = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=False))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    return inner


def metaspace_bpe() -> Tokenizer:
    words = [*_SPECIAL, "▁", "a", "b", ".", "▁a", "ab", "▁ab"]
    merges = [("▁", "a"), ("▁a", "b"), ("a", "b")]
    inner = Tokenizer(models.BPE(vocab={w: n for n, w in enumerate(words)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    return inner


def framed(inner: Tokenizer, bos: bool, eos: bool) -> Any:
    """With a BOS token before the text, an EOS token behind it, or neither."""
    template = " ".join(["<s>"] * bos + ["$A"] + ["</s>"] * eos)
    if bos or eos:
        inner.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
    return tiny.around(inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(
    ("make", "pair", "ids", "spans"),
    [
        # "▁a" + "b" is "▁ab" together.
        (metaspace_unigram, ("b a", "b"), ([7], [9]), True),
        (metaspace_unigram, ("b", ".a"), ([7], [11, 4]), False),
        # The space before the completion belongs to the token of its word.
        (metaspace_unigram, ("b ", "ab"), ([7], [9]), True),
        (metaspace_unigram, ("b", " ab"), ([7], [9]), False),
        # One piece holds the last word and the completion.
        (metaspace_unigram, ("b a", " b"), ([7], [10]), True),
        (metaspace_bpe, ("b a", "b"), ([3, 5], [9]), True),
        (metaspace_bpe, ("b", ".a"), ([3, 5], [6, 4]), False),
        (metaspace_bpe, ("b ", "ab"), ([3, 5], [9]), True),
        (metaspace_bpe, ("b a", " b"), ([3, 5, 7], [3, 5]), False),
    ],
)
def test_sentencepiece_boundaries(  # noqa: PLR0917
    make: Any, pair: Any, ids: Any, spans: bool, bos: bool, eos: bool, slow: bool
) -> None:
    tokenizer = framed(make(), bos, eos)
    encoder = Encoder(SlowTokenizer(tokenizer) if slow else tokenizer, EncodingOptions(), None)
    before, scored = [*[BOS] * bos, *ids[0]], ids[1]
    assert encoder.encode("pair", pair) == Encoded(
        (*before, *scored), len(before), spans_boundary=spans
    )


@pytest.mark.parametrize(
    ("pair", "spans"),
    [
        (("hello wo", "rld"), True),
        (("hello", " world"), False),
        (("hello ", "world"), True),
        (("the quick", "!"), False),
        (("€", "ü"), False),
    ],
)
def test_byte_level_boundaries(pair: Any, spans: bool, tokenizer: Any) -> None:
    encoded = Encoder(tokenizer, EncodingOptions(), None).encode("pair", pair)
    assert encoded.token_ids == tuple(tokenizer("".join(pair))["input_ids"])
    assert encoded.spans_boundary is spans
    text = tokenizer.decode(encoded.scored)
    assert text.endswith(pair[1])
    assert (len(text) > len(pair[1])) is spans


def test_a_bos_put_before_an_empty_prompt_spans_nothing(tokenizer: Any) -> None:
    plain = Encoder(tokenizer, EncodingOptions(add_special_tokens=False), None)
    assert not plain.encode("pair", ("", "hello")).spans_boundary


def test_completion_logprob_says_what_logprob_of_summed(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    pairs = [("hello wo", "rld"), ("hello", " world the"), ("hello", "")]
    found = backend.completion_logprob_batch(pairs, on_error="return")
    assert [each.spans_boundary for each in found[:2]] == [True, False]
    ids = backend.tokenizer("hello world the")["input_ids"]
    assert found[1].num_tokens == len(ids) - len(backend.tokenizer("hello")["input_ids"])
    computed = backend.stats.forward_passes
    assert backend.logprob_of(*pairs[0]) == found[0].logprob
    assert backend.completion_logprob(*pairs[1]) == found[1]
    assert backend.stats.forward_passes == computed
    assert isinstance(found[1], CompletionLogprob)
    assert found[1].mean_logprob == pytest.approx(found[1].logprob / found[1].num_tokens)
    assert type(found[2]).__name__ == "EmptyCompletionError"
    assert torch.isfinite(torch.tensor(found[0].logprob))


def _byte_level(**special: Any) -> Tokenizer:
    inner: Tokenizer = tiny.tokenizer(bos=False).backend_tokenizer
    inner.add_special_tokens([*special.values()])
    return inner


@pytest.mark.parametrize("completion", [" dog", "\n\nthe", "the"])
def test_a_marker_that_strips_is_the_prompts(completion: str) -> None:
    marker = AddedToken("<|a|>", rstrip=True, special=True)
    tokenizer = tiny.around(_byte_level(marker=marker), eos_token="</s>")
    encoded = Encoder(tokenizer, EncodingOptions(), None).encode("pair", ("the<|a|>", completion))
    prompt = tuple(tokenizer("the<|a|>")["input_ids"])
    assert encoded.token_ids[: encoded.first_scored] == prompt
    assert tokenizer.decode(encoded.scored).strip() == completion.strip()
    assert not encoded.spans_boundary


def test_whitespace_that_a_marker_swallows_adds_no_token() -> None:
    marker = AddedToken("<|a|>", rstrip=True, special=True)
    tokenizer = tiny.around(_byte_level(marker=marker))
    with pytest.raises(EmptyCompletionError, match="adds no token"):
        Encoder(tokenizer, EncodingOptions(), None).encode("pair", ("the<|a|>", "\n"))


def test_trimmed_offsets_span_where_the_token_does() -> None:
    inner = _byte_level()
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    trimmed = Encoder(tiny.around(inner), EncodingOptions(), None)
    whole = Encoder(tiny.tokenizer(bos=False), EncodingOptions(), None)
    for pair in [("hello ", "world"), ("hello  ", "world"), ("hello", " world"), ("the ", "the")]:
        assert trimmed.encode("pair", pair) == whole.encode("pair", pair)
    assert trimmed.encode("pair", ("hello ", "world")).spans_boundary


def test_a_lone_space_behind_a_bos_is_scored_with_trimmed_offsets() -> None:
    inner = _byte_level()
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    inner.post_processor = processors.Sequence([processors.ByteLevel(), template])
    encoder = Encoder(tiny.around(inner, bos_token="<s>"), EncodingOptions(), None)
    space = inner.token_to_id("Ġ")
    assert space is not None
    assert encoder.encode("pair", ("", " ")) == Encoded((0, space), 1)


@pytest.mark.parametrize(
    ("prompt", "completion", "scored"),
    [
        ("a cafe", "\u0301 the", "é the"),
        ("a e", "\u0301", "é"),
        # The first two bytes of these letters are those of the prompt's, so its tokens.
        ("a가", "\u11a8", "\ufffd"),
        ("か", "\u3099x", "\ufffdx"),
        ("a", "\u0323\u0301", "ạ́"),
    ],
)
def test_a_letter_composed_across_the_boundary_is_scored(
    prompt: str, completion: str, scored: str
) -> None:
    inner = tiny.tokenizer().backend_tokenizer
    inner.normalizer = normalizers.NFC()
    tokenizer = tiny.around(inner, bos_token="<s>")
    encoded = Encoder(tokenizer, EncodingOptions(), None).encode("pair", (prompt, completion))
    assert encoded.spans_boundary
    assert tokenizer.decode(encoded.scored) == unicodedata.normalize("NFC", scored)


def test_a_completion_that_begins_with_the_end_token_is_scored_where_one_is_added() -> None:
    tokenizer: Any = ByT5Tokenizer()
    encoder = Encoder(tokenizer, EncodingOptions(), None)
    end, (x,) = tokenizer.eos_token_id, tokenizer("x", add_special_tokens=False)["input_ids"]
    assert encoder.encode("pair", ("Hello", "</s>")).scored == (end,)
    assert encoder.encode("pair", ("Hello", "</s>x")).scored == (end, x)
    assert not encoder.encode("pair", ("Hello", "</s>x")).spans_boundary


def test_an_unknown_word_that_grows_is_the_prompts() -> None:
    inner = Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = Encoder(tiny.around(inner, unk_token="?"), EncodingOptions(), None)
    assert encoder.encode("pair", ("foo", "bar a")) == Encoded((0, 1), 1)
    with pytest.raises(EmptyCompletionError):
        encoder.encode("pair", ("foo", "bar"))


def test_a_last_piece_that_only_lost_its_ending_stays_in_the_prompt() -> None:
    vocab = {"c": 0, "a": 1, "t</w>": 2, "t": 3, "s</w>": 4}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], end_of_word_suffix="</w>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = Encoder(tiny.around(inner), EncodingOptions(), None)
    assert encoder.encode("pair", ("cat", "s")) == Encoded((0, 1, 3, 4), 3)


def test_spaces_that_only_the_whole_text_keeps_belong_to_the_prompt() -> None:
    inner = _byte_level()
    inner.normalizer = normalizers.Strip()
    encoder = Encoder(tiny.around(inner), EncodingOptions(), None)
    encoded = encoder.encode("pair", ("hello \n", "\nx"))
    assert inner.decode(encoded.scored).lstrip() == "x"
