"""The positions that a view moved most, as text in context, with both models' top tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.errors import ForwardCacheError, InvalidInputError
from forwardcache.scoring import PositionDifferences, TokenDist
from forwardcache.statistics.result import MovedPosition, TopToken

if TYPE_CHECKING:
    from forwardcache.hf import HFBackend, HFView

Place = tuple[int, int]
"""Number of an item, and how many of its tokens stand before the predicted one."""

MOST = 50
TOP = 5
_BEFORE, _AFTER = 24, 8
# Read before a token, so that its own text can be told: merges and spaces of a first word.
_LEAD = 6
_UNFINISHED = "\ufffd"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>\Z")


def moved_positions(
    backend: HFBackend,
    items: Sequence[PositionDifferences | ForwardCacheError],
    view: HFView | str,
    *,
    ids: Sequence[str],
    lines: Sequence[int],
    reference: HFView | str = "base",
    of_view: HFBackend | None = None,
    skip_first: int = 0,
    most: int = MOST,
) -> tuple[MovedPosition, ...]:
    """The positions that ``view`` moved most, most first; at most ``2 * most`` short forwards.

    Args:
        backend: The reference's.
        items: What ``HFBackend.compare`` gave for the view; errors have no position.
        view: The view, as in ``compare``.
        ids: The input's id of each item.
        lines: Its line in the input, from 1.
        reference: What the view was held against.
        of_view: The view's backend, where that is another.
        skip_first: As in ``Positions.of``.
        most: How many positions.

    Returns:
        One each; of items of the same tokens only the first has any. Where a model can't say its
        top tokens again, there are none.
    """
    places = most_moved(items, skip_first=skip_first, most=most)
    good = [(_item(items, number), place) for number, place in places]
    tops = [
        top_tokens_of(one, which, good)
        for one, which in ((backend, reference), (of_view or backend, view))
    ]
    return tuple(
        moved_position(
            backend.tokenizer, differences, place, id_=ids[number], line=lines[number],
            reference_top=ours, view_top=theirs,
        )
        for (differences, place), (number, _), ours, theirs in zip(
            good, places, *tops, strict=True
        )
    )  # fmt: skip


def most_moved(
    items: Sequence[PositionDifferences | ForwardCacheError],
    *,
    skip_first: int = 0,
    most: int = MOST,
) -> list[Place]:
    """Where the KL is above 0 and largest, largest first, among positions that count.

    Args:
        items: As in ``moved_positions``.
        skip_first: As in ``Positions.of``.
        most: How many.
    """
    best: list[tuple[float, int, int]] = []
    seen: set[bytes] = set()
    for number, one in enumerate(items):
        if isinstance(one, ForwardCacheError) or one.token_ids.tobytes() in seen:
            continue
        seen.add(one.token_ids.tobytes())
        counts = one.counts & (np.arange(1, len(one.kl) + 1) > skip_first)
        # What is no number, and what rounding leaves below 0, moved nothing.
        at = np.flatnonzero(counts & (one.kl > 0.0))
        at = at[np.argsort(-one.kl[at], kind="stable")[:most]]
        best += [(-float(one.kl[each]), number, int(each) + 1) for each in at]
        if len(best) > 100 * most:
            best = sorted(best)[:most]
    return [(number, place) for _, number, place in sorted(best)[:most]]


def top_tokens_of(
    backend: HFBackend, view: HFView | str, at: Sequence[tuple[PositionDifferences, int]]
) -> list[tuple[TopToken, ...]]:
    """A view's most likely tokens at positions, most likely first, by the text that they add.

    Args:
        backend: The view's.
        view: As in ``compare``.
        at: A text's differences and a place in it, each.
    """
    from forwardcache.hf.top_tokens import top_tokens

    found = top_tokens(backend, view, [(one.token_ids, place) for one, place in at], k=TOP)
    return named_tops(backend.tokenizer, found, at)


def named_tops(
    tokenizer: Any,
    dists: Sequence[TokenDist | ForwardCacheError],
    at: Sequence[tuple[PositionDifferences, int]],
) -> list[tuple[TopToken, ...]]:
    """The most likely tokens of positions by the text that they add; none where there is an error.

    Args:
        tokenizer: Tells the text of tokens.
        dists: One a position, or its error.
        at: A text's differences and a place in it, each.
    """
    return [
        () if isinstance(dist, ForwardCacheError) else _named(tokenizer, dist, one, place)
        for dist, (one, place) in zip(dists, at, strict=True)
    ]


def _named(
    tokenizer: Any, dist: TokenDist, one: PositionDifferences, place: int
) -> tuple[TopToken, ...]:
    lead = one.token_ids[max(0, place - _LEAD) : place].tolist()
    return tuple(
        TopToken(pieces(tokenizer, [*lead, token])[-1], float(np.exp(logprob)))
        for token, logprob in zip(dist.token_ids.tolist(), dist.logprobs.tolist(), strict=True)
    )


def moved_position(
    tokenizer: Any,
    one: PositionDifferences,
    place: int,
    *,
    id_: str,
    line: int,
    reference_top: tuple[TopToken, ...],
    view_top: tuple[TopToken, ...],
) -> MovedPosition:
    """A position with its context as text.

    Args:
        tokenizer: Tells the text of tokens.
        one: The differences of its text.
        place: Tokens before the predicted one.
        id_: The input's id.
        line: The input's line.
        reference_top: The reference's most likely tokens there.
        view_top: The view's.
    """
    begin, end = max(0, place - _BEFORE), min(len(one.token_ids), place + _AFTER + 1)
    lead = min(begin, _LEAD)
    texts = pieces(tokenizer, one.token_ids[begin - lead : end].tolist())[lead:]
    return MovedPosition(
        id=id_,
        line=line,
        place=place,
        kl=float(one.kl[place - 1]),
        context=tuple(texts),
        context_kl=tuple(_kl(one.kl, at) for at in range(begin, end)),
        at=place - begin,
        reference_top=reference_top,
        view_top=view_top,
    )


def _kl(kl: NDArray[np.float64], at: int) -> float | None:
    return None if at == 0 or np.isnan(kl[at - 1]) else float(kl[at - 1])


def _item(
    items: Sequence[PositionDifferences | ForwardCacheError], number: int
) -> PositionDifferences:
    one = items[number]
    assert isinstance(one, PositionDifferences)
    return one


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it.

    A character of several tokens belongs to the last of them; the others are their bytes, written
    as ``⟨e2 82⟩``, or what the vocabulary has for them.

    Args:
        tokenizer: One of transformers.
        ids: Tokens of a text, one after another.
    """
    found: list[str] = []
    begin = read = 0
    for at, token in enumerate(ids, start=1):
        before, now = _decoded(tokenizer, ids[begin:read]), _decoded(tokenizer, ids[begin:at])
        if before is None or now is None or now.endswith(_UNFINISHED):
            found.append(_part(tokenizer, token))
            continue
        found.append(now[len(before) :] or _part(tokenizer, token))
        begin, read = read, at
    return found


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str | None:
    from forwardcache.hf.text.item import blamed_on_item

    with suppress(InvalidInputError), blamed_on_item("can't write tokens"):
        return str(
            tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
    return None


def _part(tokenizer: Any, token: int) -> str:
    from forwardcache.hf.text.item import blamed_on_item

    with suppress(InvalidInputError), blamed_on_item("can't name a token"):
        piece = tokenizer.convert_ids_to_tokens(token)
        if isinstance(piece, str):
            if _BYTE.match(piece):
                return f"⟨{piece[3:5].lower()}⟩"
            known = [_BYTE_OF[letter] for letter in piece if letter in _BYTE_OF]
            return f"⟨{bytes(known).hex(' ')}⟩" if len(known) == len(piece) else piece
    return f"⟨{token}⟩"


def _bytes_of_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for.

    Source:
        ``bytes_to_unicode`` of GPT-2's tokenizer: what prints is itself, all else follows U+00FF.
    """
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in itself]
    moved = {chr(0x100 + at): byte for at, byte in enumerate(rest)}
    return {chr(byte): byte for byte in itself} | moved


_BYTE_OF = _bytes_of_letters()
