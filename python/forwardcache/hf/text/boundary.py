"""Where a completion begins among the tokens of prompt and completion together.

A token is the completion's if it holds anything of it, so the first of them may begin inside the
prompt: it spans the boundary. Offsets say what a token holds, with three exceptions:

- Byte-level tokenizers may cut spaces off them (``trim_offsets``); what a token's own letters have
  more than its offsets is given back.
- A letter that the normalizer composes of both sides has the offsets of its first part. Tokens
  after the last position where the normalizer keeps the two sides apart are the completion's.
- A token that strips, as markers of chat templates do, holds whitespace of the completion and is
  the prompt's all the same; so is an unknown word that grew. Tokens that are those of the prompt
  read alone, from the first one on, are not the completion's.

Tokenizers without offsets are compared with the prompt's tokens, and where these differ with their
text: a prompt's last tokens may be others once something follows, and still be the prompt's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from itertools import takewhile

from forwardcache.hf.text.tokens import Offset, TokenReader, Tokens

# Sequences of marks that compose are shorter; a normalizer that moves more is not looked through.
_FARTHEST = 64
# What a text ends with that was cut inside a letter.
_CUT = "\ufffd"
_SPACE = "Ġ"

# Position of the first token of the completion, and whether it begins inside the prompt.
Cut = tuple[int, bool]


def cut(reader: TokenReader, joint: Tokens, prompt: str, text: str, special: bool) -> Cut:
    """Where the completion begins in the tokens of ``text``, which is prompt and completion.

    Args:
        reader: Reads the prompt's tokens where they are needed.
        joint: The tokens of ``text``.
        prompt: What ``text`` begins with.
        text: Prompt and completion.
        special: Whether the tokenizer adds its special tokens.

    Returns:
        The position of its first token, the number of tokens if it has none, and whether that token
        begins inside the prompt.
    """
    if not prompt:
        # A space that the tokenizer puts before a text may have no position in it.
        return joint.begin, False
    if joint.offsets is None:
        return _by_tokens(reader, joint, reader.read(prompt, special))
    return _by_offsets(reader, joint, prompt, text, special)


def _by_offsets(reader: TokenReader, joint: Tokens, prompt: str, text: str, special: bool) -> Cut:
    offsets = _Offsets(joint, text)
    apart = kept_apart(reader.normalize, prompt, text)
    first = offsets.first_after(apart)
    if not offsets.begins_within(first, prompt):
        return first, False
    alone = reader.read(prompt, special).ids
    within = _common_prefix(joint.ids, alone)
    composed = apart < len(prompt) and within < len(alone)
    if composed:
        # A ligature's letters have one offset; of these some may be the prompt's.
        within = _by_text(reader, joint.ids, alone, within)[0]
    first = max(first, within)
    return first, composed or offsets.begins_within(first, prompt)


class _Offsets:
    """The offsets of tokens, with the spaces that a post-processor cut off."""

    def __init__(self, tokens: Tokens, text: str) -> None:
        self._tokens = tokens
        self._text = text
        self._given: Sequence[Offset] = tokens.offsets or ()
        self._words = None if tokens.written is None else tokens.written()

    def first_after(self, length: int) -> int:
        """The first token that holds something after the text's first ``length`` characters."""
        positions = range(self._tokens.begin, len(self._tokens.ids))
        first = next((at for at in positions if self._given[at][1] > length), positions.stop)
        # Cut off are spaces only, so no token before the last one can reach over the boundary.
        before = range(max(positions.start, first - 1), first)
        return next((at for at in before if self._whole(at)[1] > length), first)

    def begins_within(self, position: int, prompt: str) -> bool:
        """Whether the token at ``position`` begins inside the prompt; not if there is no token."""
        return position < len(self._tokens.ids) and self._whole(position)[0] < len(prompt)

    def _whole(self, position: int) -> Offset:
        begin, end = self._given[position]
        if self._words is None:
            return begin, end
        edge = self._given[position - 1][1] if position > self._tokens.begin else 0
        word = self._words[position]
        piece, text = self._text[begin:end], self._text
        before = _lacking(word, piece)
        # Of a space that stood before the text only, a letter was cut off instead.
        while before > 0 and begin > edge:
            begin, before = begin - 1, before - 1
        after = before if _spaces(word) == len(word) else _lacking(word[::-1], piece[::-1])
        while after > 0 and end < len(text) and text[end].isspace():
            end, after = end + 1, after - 1
        return begin, end


def _lacking(word: str, piece: str) -> int:
    """How many of the spaces that ``word`` begins with ``piece`` of the text doesn't begin with."""
    spaces = _spaces(word)
    pairs = zip(word[:spaces], piece, strict=False)
    same = (ours == theirs or unicodedata.category(theirs) == "Zs" for ours, theirs in pairs)
    return spaces - sum(takewhile(bool, same))


def _spaces(word: str) -> int:
    """How many spaces a word begins with, in letters or in those of byte-level vocabularies."""
    return sum(1 for _ in takewhile(lambda letter: letter == _SPACE or letter.isspace(), word))


def kept_apart(normalize: Callable[[str], str] | None, prompt: str, text: str) -> int:
    """How many characters of the prompt the normalizer keeps apart from all that follows.

    Args:
        normalize: What the tokenizer does to a text first.
        prompt: What ``text`` begins with.
        text: Prompt and completion.
    """
    if normalize is None:
        return len(prompt)
    whole = normalize(text)
    lengths = range(len(prompt), max(len(prompt) - _FARTHEST, 0) - 1, -1)
    apart = (length for length in lengths if whole.startswith(normalize(prompt[:length])))
    return next(apart, len(prompt))


def _by_tokens(reader: TokenReader, joint: Tokens, alone: Tokens) -> Cut:
    shared = _common_prefix(joint.ids, alone.ids)
    if shared == len(alone.ids):
        return shared, False
    first, spans = _by_text(reader, joint.ids, alone.ids, shared)
    return max(first, joint.begin), spans and len(alone.ids) > alone.begin


def _by_text(
    reader: TokenReader, joint: tuple[int, ...], alone: tuple[int, ...], shared: int
) -> Cut:
    """How many tokens hold nothing but the prompt, of which they share ``shared`` tokens.

    As many as together have the prompt's text; the next one spans the boundary if none have.
    """
    prompt, within = reader.text_of(alone), shared
    for count in range(shared + 1, len(joint) + 1):
        text = reader.text_of(joint[:count])
        if prompt is None or text is None or not prompt.startswith(text.rstrip(_CUT)):
            break
        if text == prompt:
            return count, False
        if prompt.startswith(text):
            within = count
    return within, True


def _common_prefix(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    differs = (index for index, (ours, theirs) in pairs if ours != theirs)
    return next(differs, min(len(left), len(right)))
