"""Claims: items read together get the tokens or the error that each gets alone, in fewer calls."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from forwardcache.errors import ForwardCacheError
from forwardcache.hf import HFBackend
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.text.encode import Encoder, EncodingOptions, Form
from tests.hf import tiny

_TEXTS = ["hello world", "a", "", "the quick brown fox", "hello world", "é\u200d☃", "x" * 3000]
_BROKEN = ["half \ud800 a pair", 7, None, ["hello"]]
_PAIRS = [("hello", " world"), ["hello wor", "ld"], ("", "a"), ("a", ""), ("ab", "\ud800"), "ab"]
_ITEMS: dict[Form, list[Any]] = {
    "prompt": [*_TEXTS, *_BROKEN],
    "text": [*_TEXTS, *_BROKEN],
    "pair": [*_PAIRS, (1, 2), ("hello",), ("the quick", " brown fox")],
    "tokens": [([1, 2], [3]), ([], [1]), ([1], []), "ab", ([1], ["a"])],
}


class Counting(type(tiny.tokenizer())):  # type: ignore[misc]
    """Counts its calls."""

    calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        type(self).calls += 1
        return super().__call__(*arguments, **options)


def counting() -> Any:
    Counting.calls = 0
    return Counting(
        tokenizer_object=tiny.tokenizer().backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )


def alone(encoder: Encoder, form: Form, item: Any) -> Encoded | ForwardCacheError:
    try:
        return encoder.encode(form, item)
    except ForwardCacheError as error:
        return error


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("without", [0, 1])
@pytest.mark.parametrize("form", ["prompt", "text", "pair", "tokens"])
def test_items_read_together_get_what_each_gets_alone(
    form: Form, without: int, special: bool
) -> None:
    items = _ITEMS[form]
    # With what no tokenizer reads among them, and without, so that they are read together.
    if without:
        items = [item for item in items if "ud800" not in repr(item)]
    options = EncodingOptions(add_special_tokens=special)
    expected = [alone(Encoder(tiny.tokenizer(), options, 1000), form, item) for item in items]
    found = list(Encoder(tiny.tokenizer(), options, 1000).encode_each(form, items))
    assert [_told(each) for each in found] == [_told(each) for each in expected]


def _told(outcome: Encoded | ForwardCacheError) -> Any:
    return outcome if isinstance(outcome, Encoded) else (type(outcome), str(outcome))


@pytest.mark.parametrize("form", ["prompt", "text", "pair"])
def test_many_short_items_take_few_calls_of_the_tokenizer(form: Form) -> None:
    texts = [f"number {n}" for n in range(600)]
    items: list[Any] = [(text, " more") for text in texts] if form == "pair" else texts
    encoder = Encoder(counting(), EncodingOptions(), None)
    first = list(encoder.encode_each(form, items))
    assert Counting.calls == 3
    assert list(encoder.encode_each(form, items)) == first
    assert Counting.calls == 3


def test_the_lengths_of_many_texts_are_found_without_the_tokens_of_all_at_once(
    make_backend: Callable[..., HFBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "_MAX_TOKENS", 1000)
    backend = make_backend()
    texts = [f"{n} hello world, the quick brown fox" for n in range(12_000)]
    backend.token_lengths(texts[:2], op="next_token_dist")
    tracemalloc.start()
    lengths = backend.token_lengths(texts, op="next_token_dist")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # An object and its tuple of ids take 250 bytes and more.
    assert len(lengths) == 12_000
    assert peak < 12_000 * 100
