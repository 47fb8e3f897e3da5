"""Do two models have one vocabulary? Only then is a token of one a token of the other."""

from __future__ import annotations

from typing import Any

from forwardcache.errors import InvalidInputError
from forwardcache.hf.model import load as loading


def tokenizer_of(folder: str, *, allow_download: bool = False) -> Any:
    """The tokenizer of another model, without its weights.

    Args:
        folder: As of ``HFBackend.load``.
        allow_download: Whether the hub may be asked.

    Raises:
        ModelLoadError: there is none, or it is broken.
    """
    return loading.load_tokenizer(
        folder, [], tokenizer=None, add_bos_token=None, allow_download=allow_download
    )


def check_tokens(reference: Any, other: Any) -> None:
    """Refuses a tokenizer with another token under some id.

    Args:
        reference: The reference's tokenizer.
        other: The other model's.

    Raises:
        InvalidInputError: naming the first id under which they differ.
    """
    ours, theirs = (_by_id(each) for each in (reference, other))
    if ours == theirs:
        return
    differing = [at for at in ours.keys() | theirs.keys() if ours.get(at) != theirs.get(at)]
    first = min(differing)
    raise InvalidInputError(
        f"another vocabulary: token {first} is {_said(theirs, first)}, the reference's is "
        f"{_said(ours, first)} ({len(differing):,} differ)"
    )


def common_rows(tokenizer: Any, ours: int, theirs: int) -> int:
    """The ids over which two models are compared: all, or all but one's padding.

    Args:
        tokenizer: Of either.
        ours: Logits a position of the reference.
        theirs: Likewise of the other model.

    Raises:
        InvalidInputError: what one lacks is no padding.
    """
    common, last = min(ours, theirs), max(_by_id(tokenizer), default=-1)
    if ours != theirs and common <= last:
        word = _by_id(tokenizer)[last]
        raise InvalidInputError(
            f"another vocabulary: {theirs:,} logits a position, the reference has {ours:,}, and "
            f"token {last} ({word!r}) is beyond {common - 1:,}"
        )
    return common


def padding_note(name: str, reference: str, ours: int, theirs: int) -> str | None:
    """What a reader has to know where one model has more rows than the other; None where none has.

    Args:
        name: The other model's.
        reference: What the reference is called.
        ours: Logits a position of the reference.
        theirs: Likewise of the other model.
    """
    if ours == theirs:
        return None
    return (
        f"{name} has {theirs:,} logits a position and {reference} {ours:,}: they are compared over "
        f"the first {min(ours, theirs):,}, all that are tokens, each as a distribution over these."
    )


def _by_id(tokenizer: Any) -> dict[int, str]:
    found: dict[int, str] = {}
    # Two words may have one id; the same one counts on both sides.
    for word, at in sorted(tokenizer.get_vocab().items()):
        found.setdefault(at, word)
    return found


def _said(words: dict[int, str], at: int) -> str:
    return repr(words[at]) if at in words else "none"
