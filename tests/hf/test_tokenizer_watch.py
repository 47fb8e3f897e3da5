"""Claims: whatever is changed about a tokenizer, in a part of it or in place, is seen at a look."""

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from forwardcache.hf.model.tokenizer_watch import TokenizerWatch
from tests.hf import tiny


def many(last: str) -> normalizers.Normalizer:
    """More replacements than the text of a normalizer shows."""
    each = [normalizers.Replace("q", "q")] * 150
    return normalizers.Sequence([*each, normalizers.Replace("o", last)])


def made() -> Any:
    tokenizer = tiny.tokenizer()
    inner = tokenizer.backend_tokenizer
    inner.normalizer = many("o")
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.init_kwargs["words"] = {"list": ["a"], "token": AddedToken("b")}
    return tokenizer


def set_inner(name: str, value: Any) -> Callable[[Any], None]:
    return lambda tokenizer: setattr(tokenizer.backend_tokenizer, name, value)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "the last of many replacements": set_inner("normalizer", many("a")),
    "no normalizer": set_inner("normalizer", None),
    "a pre-tokenizer, in place": lambda tokenizer: setattr(
        tokenizer.backend_tokenizer.pre_tokenizer, "add_prefix_space", True
    ),
    "a post-processor": set_inner(
        "post_processor",
        processors.TemplateProcessing(single="$A <s>", special_tokens=[("<s>", 0)]),
    ),
    "a setting of the model, in place": lambda tokenizer: setattr(
        tokenizer.backend_tokenizer.model, "dropout", 0.5
    ),
    "a model of another kind": set_inner("model", models.WordLevel({"a": 0}, unk_token="a")),
    "one more token": lambda tokenizer: tokenizer.add_tokens(["quick"]),
    "another BOS token": lambda tokenizer: setattr(tokenizer, "bos_token", "</s>"),
    "a setting": lambda tokenizer: setattr(tokenizer, "padding_side", "left"),
    "a setting that is new": lambda tokenizer: setattr(tokenizer, "its_own", 1),
    "a list in a setting, in place": lambda tokenizer: tokenizer.init_kwargs["words"][
        "list"
    ].append("c"),
    "a token in a setting, in place": lambda tokenizer: setattr(
        tokenizer.init_kwargs["words"]["token"], "content", "c"
    ),
    "another Rust tokenizer": lambda tokenizer: setattr(
        tokenizer, "_tokenizer", tiny.tokenizer().backend_tokenizer
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_seen(change: Callable[[Any], Any]) -> None:
    tokenizer = made()
    watch = TokenizerWatch(tokenizer)
    tokenizer(["the quick brown fox", "a"], truncation=True, max_length=2)
    assert watch.holds(tokenizer)
    assert not watch.holds(made())
    change(tokenizer)
    assert not watch.holds(tokenizer)


class Own:
    """A tokenizer of a user's own, with parts that are no Rust."""

    class Part:
        def __init__(self, words: str) -> None:
            self.words = words

        def __repr__(self) -> str:
            return self.words

    class Model:
        unk_token = "a"

    def __init__(self) -> None:
        self._tokenizer: Any = type("Inner", (), {})()
        self._tokenizer.normalizer = self.Part("one")
        self._tokenizer.model = self.Model()


@pytest.mark.parametrize("way", ["a part", "the model"])
def test_a_tokenizer_of_ones_own_is_seen_by_its_parts_words(way: str) -> None:
    own = Own()
    watch = TokenizerWatch(own)
    assert watch.holds(own)
    if way == "a part":
        own._tokenizer.normalizer.words = "two"
    else:
        own._tokenizer.model.alpha = 0.5
    assert not watch.holds(own)
