"""Claim: for every kind of tokenizer and any pair of texts, the completion's tokens are those that
hold something of it, and ``spans_boundary`` says whether the first of them begins in the prompt.

The oracle knows no offsets and no tokens of the prompt: it holds the bytes that each token stands
for against the bytes of the prompt, normalised in Python. What is not shown here: tokenizers that
lose text (unknown words, dropped whitespace), which ``test_boundary`` has by hand.
"""

import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors as post
from tokenizers.trainers import BpeTrainer
from transformers import ByT5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from forwardcache.errors import EmptyCompletionError, EmptyPromptError
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.text.encode import Encoder, EncodingOptions
from tests.hf import tiny
from tests.hf.test_encode import SlowTokenizer

Text = Callable[[str], str]

PAIRS = 300
_CORPUS = [
    "hello world the café naïve façade, the  quick\n\n    brown fox   jumps over 12 345\n",
    "Ähnlich größer; e\u0301te\u0301 fi ﬁ 가각 か\u3099 ½ Hello WORLD <m> <r> the world  \n",
]
_PIECES = [
    *"abehlot 12",
    *(
        " ",
        "  ",
        "\n",
        "\n\n    ",
        " the",
        "hello",
        " world",
        "caf",
        "12 ",
        "he",
        "th",
        " t",
        "ﬁ",
        "½",
        "Å",
        "가",
    ),
    *("\u0301", "\u0323", "\u0308", "\u11a8", "か", "\u3099", "é", "e\u0301", "😀", "ß", "İx"[1:]),
    *("<m>", "<r>", "<l>", "<b>", "<", "m>", "</s>", "<s>", "</", "s>"),
]
_LETTER = {letter: byte for byte, letter in bytes_to_unicode().items()}


@dataclass(frozen=True)
class Kind:
    """A tokenizer, what it puts before a text, and what the oracle knows of it."""

    tokenizer: Any
    front: tuple[int, ...]
    normal: Text
    surface: Callable[[int], bytes]
    specials: Sequence[AddedToken] = ()


def stripping(name: str) -> Any:
    return AddedToken(
        name, special=True, lstrip=name in ("<l>", "<b>"), rstrip=name in ("<r>", "<b>")
    )


def segments(text: str, specials: Sequence[AddedToken], normal: Text) -> str:
    """``text`` as a tokenizer sees it: special tokens, which may strip, between normalised text."""
    if not specials:
        return normal(text)
    patterns = [
        r"\s*" * added.lstrip + re.escape(added.content) + r"\s*" * added.rstrip
        for added in specials
    ]
    split = re.split(f"({'|'.join(patterns)})", text)
    return "".join(each.strip() if n % 2 else normal(each) for n, each in enumerate(split))


def byte_level(
    *,
    normal: Any = None,
    prefix: bool = False,
    trim: bool | None = None,
    template: str = "",
    specials: tuple[str, ...] = (),
) -> Kind:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        _CORPUS * 4,
        BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    chosen: dict[Any, tuple[Any, Text]] = {
        None: (None, str),
        "NFC": (normalizers.NFC(), lambda text: unicodedata.normalize("NFC", text)),
        "NFKC": (normalizers.NFKC(), lambda text: unicodedata.normalize("NFKC", text)),
        "lower": (normalizers.Lowercase(), str.lower),
    }
    rule, normalised = chosen[normal]
    if rule is not None:
        inner.normalizer = rule
    parts: list[Any] = (
        [] if trim is None else [post.ByteLevel(add_prefix_space=prefix, trim_offsets=trim)]
    )
    if template:
        ids = [("<s>", 0), ("</s>", 1)]
        parts.append(post.TemplateProcessing(single=template, special_tokens=ids))
    if parts:
        inner.post_processor = post.Sequence(parts)
    names = {"bos_token": "<s>"} if "<s>" in template else {}
    end = {"eos_token": "</s>"}
    tokenizer = tiny.around(inner, **names, **end)
    tokenizer.add_tokens([stripping(each) for each in specials], special_tokens=True)
    added = {token: word.content for token, word in tokenizer.added_tokens_decoder.items()}

    def surface(token: int) -> bytes:
        if token in added:
            return str(added[token]).encode()
        return bytes(_LETTER[letter] for letter in inner.id_to_token(token) or "")

    def whole(text: str) -> str:
        text = normalised(text)
        return " " + text if prefix and text and text[0] != " " else text

    front = (0,) if template.startswith("<s>") else ()
    return Kind(tokenizer, front, whole, surface, list(tokenizer.added_tokens_decoder.values()))


def metaspace(*, template: str = "", legacy: bool = False) -> Kind:
    """As Llama 2: words begin with ▁, and what has no token becomes bytes."""
    words = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abehlotwrd"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("l", "l"), ("h", "e"), ("▁", "▁"), ("▁", "h")]
    words += ["".join(pair) for pair in merges]
    vocab = {word: index for index, word in enumerate(words)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
    if legacy:
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        inner.normalizer = normalizers.Sequence(steps)
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    if template:
        ids = [("<s>", 0), ("</s>", 1)]
        inner.post_processor = post.TemplateProcessing(single=template, special_tokens=ids)
    tokenizer = tiny.around(inner, bos_token="<s>", eos_token="</s>")

    def surface(token: int) -> bytes:
        word = str(words[token])
        if word.startswith("<0x"):
            return bytes([int(word[3:5], 16)])
        return word.replace("▁", " ").encode()

    def whole(text: str) -> str:
        prepends = bool(text) and (legacy or not text.startswith(" "))
        return " " + text if prepends else text

    front = (0,) if template.startswith("<s>") else ()
    return Kind(tokenizer, front, whole, surface, list(tokenizer.added_tokens_decoder.values()))


def byt5() -> Kind:
    tokenizer: Any = ByT5Tokenizer(extra_ids=0)

    def surface(token: int) -> bytes:
        word = str(tokenizer.convert_ids_to_tokens(token))
        return word.encode() if token < 3 else bytes([token - 3])

    return Kind(tokenizer, (), str, surface, list(tokenizer.added_tokens_decoder.values()))


def slow(kind: Kind) -> Kind:
    """Without offsets, as one written in Python."""

    class Slow(SlowTokenizer):
        def __call__(self, text: str, **options: Any) -> Any:
            return super().__call__(text, **{"return_offsets_mapping": False} | options)

        def decode(self, ids: Any, **options: Any) -> Any:
            return self._inner.decode(ids, **options)

    return Kind(Slow(kind.tokenizer), kind.front, kind.normal, kind.surface, kind.specials)


_STRIPPING = ("<m>", "<r>", "<l>", "<b>")
KINDS: dict[str, Callable[[], Kind]] = {
    "byte level": byte_level,
    "byte level, BOS": lambda: byte_level(template="<s> $A"),
    "byte level, BOS and EOS": lambda: byte_level(template="<s> $A </s>", trim=False),
    "byte level, EOS": lambda: byte_level(template="$A </s>"),
    "trimmed": lambda: byte_level(trim=True),
    "trimmed, prefix space": lambda: byte_level(trim=True, prefix=True),
    "trimmed, BOS": lambda: byte_level(trim=True, template="<s> $A"),
    "trimmed, prefix space, BOS": lambda: byte_level(trim=True, prefix=True, template="<s> $A"),
    "trimmed, NFC, BOS": lambda: byte_level(trim=True, normal="NFC", template="<s> $A"),
    "prefix space": lambda: byte_level(prefix=True, trim=False),
    "NFC": lambda: byte_level(normal="NFC"),
    "NFC, BOS": lambda: byte_level(normal="NFC", template="<s> $A"),
    "NFKC, BOS": lambda: byte_level(normal="NFKC", template="<s> $A"),
    "lower case, BOS": lambda: byte_level(normal="lower", template="<s> $A"),
    "markers, BOS": lambda: byte_level(template="<s> $A", specials=_STRIPPING),
    "markers, NFC": lambda: byte_level(normal="NFC", specials=_STRIPPING),
    "markers, trimmed": lambda: byte_level(trim=True, specials=_STRIPPING),
    "metaspace": metaspace,
    "metaspace, BOS": lambda: metaspace(template="<s> $A"),
    "metaspace by normalizer, BOS and EOS": lambda: metaspace(template="<s> $A </s>", legacy=True),
    "slow byte level, BOS": lambda: slow(byte_level(template="<s> $A")),
    "slow NFC, BOS and EOS": lambda: slow(byte_level(normal="NFC", template="<s> $A </s>")),
    "slow markers": lambda: slow(byte_level(specials=_STRIPPING)),
    "ByT5": byt5,
}


def common(one: Sequence[Any], other: Sequence[Any]) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def expected(kind: Kind, prompt: str, completion: str) -> Encoded | type[Exception] | None:
    """By bytes: the completion begins where those of the prompt end, or are others.

    None where another letter begins with the same bytes: whose those are, nobody can say.
    """
    texts = [segments(each, kind.specials, kind.normal) for each in (prompt, prompt + completion)]
    before, whole = (text.encode() for text in texts)
    ids = tuple(kind.tokenizer(prompt + completion, add_special_tokens=False)["input_ids"])
    assert b"".join(map(kind.surface, ids)) == whole, "the oracle knows this tokenizer"
    shared = common(before, whole)
    if shared != len(texts[0][: common(*texts)].encode()):
        return None
    ends = [len(b"".join(map(kind.surface, ids[: n + 1]))) for n in range(len(ids))]
    first = next((n for n, end in enumerate(ends) if end > shared), len(ids))
    if first == len(ids):
        return EmptyCompletionError
    begin = ends[first - 1] if first else 0
    spans = begin < shared or shared < len(before)
    front = kind.front
    if not front and first == 0:
        if kind.tokenizer.bos_token_id is None:
            return EmptyPromptError
        front = (kind.tokenizer.bos_token_id,)
    return Encoded((*front, *ids), len(front) + first, spans)


def found(encoder: Encoder, pair: tuple[str, str]) -> Encoded | type[Exception]:
    try:
        return encoder.encode("pair", pair)
    except (EmptyCompletionError, EmptyPromptError) as error:
        return type(error)


def drawn(chance: random.Random) -> tuple[str, str]:
    """A text cut anywhere, or between two pieces."""
    pieces = chance.choices(_PIECES, k=chance.randint(1, 9))
    text, index = "".join(pieces), chance.randrange(len(pieces))
    cut = chance.choice([chance.randrange(len(text)), len("".join(pieces[:index]))])
    return text[:cut], text[cut:]


@pytest.mark.parametrize("name", KINDS)
def test_the_completions_tokens_are_those_that_hold_something_of_it(name: str) -> None:
    kind, chance = KINDS[name](), random.Random(name)
    encoder = Encoder(kind.tokenizer, EncodingOptions(), None)
    spanning = 0
    for _ in range(PAIRS):
        pair = drawn(chance)
        right = expected(kind, *pair)
        if right is not None:
            assert (pair, found(encoder, pair)) == (pair, right)
        spanning += isinstance(right, Encoded) and right.spans_boundary
    assert spanning > 2
