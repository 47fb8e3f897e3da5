"""Claims: what a tokenizer raises, or an id that the model has no row for, is the error of that
item alone, in every operation and in both forms; the others are scored, as they are without it.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from forwardcache.errors import ContextLengthError, InvalidInputError
from forwardcache.hf import HFBackend
from tests.hf import tiny
from tests.hf.conftest import MakeBackend

BATCHES: dict[str, Callable[[Any, list[str], Any], list[Any]]] = {
    "next_token_dist": lambda view, texts, on: view.next_token_dist_batch(texts, on_error=on),
    "logprobs_at": lambda view, texts, on: view.logprobs_at_batch(
        texts, [[1, 2]] * len(texts), on_error=on
    ),
    "rolling_logprob": lambda view, texts, on: view.rolling_logprob_batch(texts, on_error=on),
    "logprob_of": lambda view, texts, on: view.logprob_of_batch(
        [(text, " dog") for text in texts], on_error=on
    ),
    "completion": lambda view, texts, on: view.completion_logprob_batch(
        [("the", " " + text) for text in texts], on_error=on
    ),
}
SINGLES: dict[str, Callable[[Any, str], Any]] = {
    "next_token_dist": lambda view, text: view.next_token_dist(text),
    "token_dist_at": lambda view, text: view.token_dist_at(text, [1, 2]),
    "rolling_logprob": lambda view, text: view.rolling_logprob(text),
    "logprob_of": lambda view, text: view.logprob_of(text, " dog"),
    "completion": lambda view, text: view.completion_logprob("the", " " + text),
    "generate": lambda view, text: view.generate(text, max_new_tokens=2),
}
TEXTS = ["the quick fox", "a BAD dog", "hello world"]


class Panic(BaseException):
    """As a panic in a tokenizer's Rust code arrives in Python: no ``Exception``."""


class Raising:
    """A tokenizer that raises at one word, and has no length."""

    is_fast = True

    def __init__(self, inner: Any, error: BaseException) -> None:
        self._inner = inner
        self._error = error
        self.bos_token_id = inner.bos_token_id

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        if "BAD" in "".join(text):
            raise self._error
        return self._inner(text, **options)

    def decode(self, ids: Any, **options: Any) -> Any:
        return self._inner.decode(ids, **options)

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return self._inner.convert_ids_to_tokens(ids)


ERRORS = [
    Exception("no unknown token\nsecond line"),
    KeyError("BAD"),
    RecursionError("too deep"),
    OverflowError(""),
    Panic("called `Option::unwrap()`"),
]


def same(one: Any, other: Any) -> bool:
    equal = one == other
    return bool(equal if isinstance(equal, bool) else equal.all())


def without(results: list[Any]) -> list[Any]:
    return [results[0], results[2]]


def check_alone(backend: HFBackend, call: Any, words: str) -> None:
    """One of three is refused with ``words``, the two others are as they are in its absence."""
    expected = call(backend, without(TEXTS), "raise")
    found = call(backend, TEXTS, "return")
    assert isinstance(found[1], InvalidInputError)
    assert words in str(found[1])
    assert "\n" not in str(found[1])
    assert all(map(same, without(found), expected))
    with pytest.raises(InvalidInputError) as raised:
        call(backend, TEXTS, "raise")
    assert raised.value.index == 1
    assert raised.value.results is not None
    assert all(map(same, without(raised.value.results), expected))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("op", BATCHES)
def test_what_a_tokenizer_raises_is_one_items_error(
    op: str, error: BaseException, make_backend: MakeBackend, tokenizer: Any
) -> None:
    backend = make_backend("llama", tokenizer=Raising(tokenizer, error))
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    check_alone(backend, BATCHES[op], words)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("op", SINGLES)
def test_the_single_form_raises_the_same_class(
    op: str, error: BaseException, make_backend: MakeBackend, tokenizer: Any
) -> None:
    backend = make_backend("llama", tokenizer=Raising(tokenizer, error))
    with pytest.raises(InvalidInputError, match="can't read") as raised:
        SINGLES[op](backend, "a BAD dog")
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [MemoryError("full"), KeyboardInterrupt(), SystemExit(3), ContextLengthError("long")]
)
def test_memory_interrupts_and_our_own_errors_pass_through(
    error: BaseException, make_backend: MakeBackend, tokenizer: Any
) -> None:
    backend = make_backend("llama", tokenizer=Raising(tokenizer, error))
    with pytest.raises(type(error)) as raised:
        backend.next_token_dist_batch(TEXTS)
    assert raised.value is error


def test_a_word_level_tokenizer_without_an_unknown_token_fails_for_that_text_only() -> None:
    inner = Tokenizer(models.WordLevel(vocab={"a": 0, "b": 1}))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with HFBackend(tiny.llama(), tiny.around(inner)) as backend:
        found = backend.next_token_dist_batch(["a", "new", "a b"], on_error="return")
        assert isinstance(found[1], InvalidInputError)
        assert found[0] == backend.next_token_dist("a")
        assert found[2] == backend.next_token_dist("a b")
        lengths = backend.token_lengths(["a", "new"], op="next_token_dist")
        assert lengths[0] == 1
        assert isinstance(lengths[1], InvalidInputError)


def test_tokens_that_the_tokenizer_cannot_write_as_text_are_the_items_error(
    make_backend: MakeBackend, tokenizer: Any
) -> None:
    class Speechless(Raising):
        def decode(self, ids: Any, **options: Any) -> Any:
            raise OverflowError("out of range integral type conversion attempted")

    backend = make_backend("llama", tokenizer=Speechless(tokenizer, Exception()))
    with pytest.raises(InvalidInputError, match=r"can't write .*out of range integral"):
        backend.generate("the", max_new_tokens=2)


def test_a_tokenizer_of_slots_alone_scores(make_backend: MakeBackend, tokenizer: Any) -> None:
    class Slotted:
        __slots__ = ("bos_token_id", "inner")
        is_fast = True

        def __init__(self) -> None:
            self.inner, self.bos_token_id = tokenizer, tokenizer.bos_token_id

        def __call__(self, text: str, **options: Any) -> Any:
            return self.inner(text, **options)

    plain = make_backend("llama").logprob_of("the", " dog")
    assert make_backend("llama", tokenizer=Slotted()).logprob_of("the", " dog") == plain


# --- ids that the model has no row for --------------------------------------------------------


def larger(name: str = "BAD") -> Any:
    """The tokenizer with one token more than the model has rows."""
    found = tiny.tokenizer()
    added = tiny.VOCAB - len(found)
    found.add_tokens([f"<filler{number}>" for number in range(added)] + [name])
    assert found.convert_tokens_to_ids(name) == tiny.VOCAB
    return found


@pytest.mark.parametrize("op", BATCHES)
def test_a_token_beyond_the_models_rows_is_one_items_error(
    op: str, make_backend: MakeBackend
) -> None:
    backend = make_backend("llama", tokenizer=larger())
    check_alone(backend, BATCHES[op], f"from 0 to {tiny.VOCAB - 1}, got {tiny.VOCAB} ('BAD')")


@pytest.mark.parametrize("op", SINGLES)
def test_the_single_form_refuses_a_token_beyond_the_models_rows(
    op: str, make_backend: MakeBackend
) -> None:
    backend = make_backend("llama", tokenizer=larger())
    with pytest.raises(InvalidInputError, match=f"got {tiny.VOCAB} "):
        SINGLES[op](backend, "a BAD dog")


def test_token_lengths_and_noise_floor_know_such_tokens(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", tokenizer=larger())
    for op in ("next_token_dist", "rolling_logprob"):
        first, refused, last = backend.token_lengths(TEXTS, op=op)
        assert isinstance(first, int)
        assert isinstance(last, int)
        assert isinstance(refused, InvalidInputError)
        assert backend.noise_floor(TEXTS, op).prompts == 2


class Uneven:
    """A Llama whose embedding and head have different numbers of rows."""

    def __init__(self, embedding: int, head: int) -> None:
        self.model = tiny.llama()
        torch.manual_seed(5)
        self.model.model.embed_tokens = nn.Embedding(embedding, 32)
        self.model.lm_head = nn.Linear(32, head, bias=False)
        self.model.requires_grad_(False)

    def logprob(self, context: list[int], last: int) -> float:
        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([context])).logits[0, -1]
        return float(logits.double().log_softmax(-1)[last])


def test_an_id_that_only_the_embedding_has_is_read_and_never_scored() -> None:
    uneven = Uneven(embedding=tiny.VOCAB + 8, head=tiny.VOCAB)
    new = tiny.VOCAB
    with HFBackend(uneven.model, larger("NEW")) as backend:
        found = backend.continuation_logprob([1, new], [3])
        assert found.logprob == pytest.approx(uneven.logprob([1, new], 3), abs=1e-4)
        with pytest.raises(InvalidInputError, match="scored"):
            backend.continuation_logprob([1, 3], [new])
        ids = backend.tokenizer("a NEW")["input_ids"]
        dist = backend.next_token_dist("a NEW", top_k=1)
        best = int(dist.token_ids[0])
        assert float(dist.logprobs[0]) == pytest.approx(uneven.logprob(ids, best), abs=1e-4)
        with pytest.raises(InvalidInputError, match="scored"):
            backend.rolling_logprob("a NEW dog")
        with pytest.raises(InvalidInputError, match="scored"):
            backend.logprob_of("a", " NEW")


def test_an_id_that_only_the_head_has_is_scored_and_never_read() -> None:
    uneven = Uneven(embedding=tiny.VOCAB, head=tiny.VOCAB + 8)
    new = tiny.VOCAB
    with HFBackend(uneven.model, larger("NEW")) as backend:
        found = backend.continuation_logprob([1, 2], [new])
        assert found.logprob == pytest.approx(uneven.logprob([1, 2], new), abs=1e-4)
        with pytest.raises(InvalidInputError, match="read"):
            backend.continuation_logprob([1, new], [3])
        with pytest.raises(InvalidInputError, match="read"):
            backend.next_token_dist("a NEW")


class PanicsInTemplate:
    """A tokenizer whose chat template panics at one word."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def apply_chat_template(self, turns: Any, **options: Any) -> str:
        if "BAD" in turns[0]["content"]:
            raise Panic("called `Option::unwrap()`")
        return str(self._inner.apply_chat_template(turns, **options))

    def __call__(self, text: Any, **options: Any) -> Any:
        return self._inner(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_panic_in_a_template_is_that_prompts_error() -> None:
    inner = tiny.tokenizer()
    inner.chat_template = "{{ messages[0]['content'] }}"
    with HFBackend(tiny.llama(), PanicsInTemplate(inner), chat_template=True) as backend:
        found = backend.next_token_dist_batch(TEXTS, on_error="return")
        assert "the chat template refuses the prompt" in str(found[1])
        assert without(found) == backend.next_token_dist_batch(without(TEXTS))


def test_a_panic_while_tokens_are_written_or_named_takes_nothing_along(tokenizer: Any) -> None:
    class Mute(Raising):
        def decode(self, ids: Any, **options: Any) -> Any:
            raise Panic("decode")

        def convert_ids_to_tokens(self, ids: Any) -> Any:
            raise Panic("name")

    model = tiny.llama()
    model.resize_token_embeddings(len(tokenizer) - 40)
    backend = HFBackend(model, Mute(tokenizer, ERRORS[0]))
    found = backend.next_token_dist_batch(["a", "the quick fox"], on_error="return")
    assert not isinstance(found[0], Exception)
    assert "no row for it" in str(found[1])
