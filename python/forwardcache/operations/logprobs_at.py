"""The next-token log-probabilities of given tokens, and the mass of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from forwardcache.errors import InvalidInputError
from forwardcache.operation import Column, Operation, Runner, Task, is_close, with_prompt_framed

if TYPE_CHECKING:
    from forwardcache.hf.text.chat import Frame
    from forwardcache.scoring import TokenDist

Item = tuple[Any, tuple[int, ...] | InvalidInputError]
"""A prompt with its ids, or with what is wrong with them."""


class OfDistribution(Operation):
    """An operation whose value is a ``TokenDist``: the logits of a prompt's last position."""

    form = "prompt"
    last_only = True
    kind = "dist"
    stored: ClassVar[Mapping[str, Column]] = {
        "token_ids": "int64[]",
        "logprobs": "float32[]",
        "vocab_size": "int64[]",
        "tail_logprob": "float64[]",
    }

    def holds(self, type_: object) -> bool:
        from forwardcache.scoring import TokenDist

        return type_ is TokenDist

    def is_finite(self, value: TokenDist) -> bool:
        return value.is_finite

    def is_same(self, kept: TokenDist, fresh: TokenDist, tolerance: float) -> bool:
        if kept.vocab_size != fresh.vocab_size or len(kept.token_ids) != len(fresh.token_ids):
            return False
        # Tokens that are nearly equal may change places, also with one outside the k; those clear
        # of the last can't.
        ours, theirs = (
            dict(zip(dist.token_ids.tolist(), dist.logprobs.tolist(), strict=True))
            for dist in (kept, fresh)
        )
        last = min(theirs.values(), default=0.0)
        return all(
            is_close(ours.get(token, last), theirs.get(token, last), tolerance)
            for token in ours.keys() | theirs.keys()
        )

    def pack(self, value: TokenDist) -> dict[str, Any]:
        return {
            "token_ids": value.token_ids,
            "logprobs": value.logprobs,
            "vocab_size": (value.vocab_size,),
            "tail_logprob": () if value.tail_logprob is None else (value.tail_logprob,),
        }

    def unpack(self, arrays: Mapping[str, Any]) -> TokenDist:
        from forwardcache.scoring import TokenDist

        [vocab_size] = arrays["vocab_size"].tolist()
        tail: list[float | None] = arrays["tail_logprob"].tolist()
        [tail_logprob] = tail or [None]
        return TokenDist(arrays["token_ids"], arrays["logprobs"], vocab_size, tail_logprob)


class LogprobsAt(OfDistribution):
    """Given tokens after a prompt. An item is ``(prompt, ids)``; see ``items``."""

    name = "logprobs_at"
    needs_only_prompts = False

    def text(self, item: Item) -> Any:
        prompt, ids = item
        if isinstance(ids, InvalidInputError):
            raise ids
        return prompt

    def key(self, item: Item) -> Any:
        # The ids are part of the key, exactly.
        return item[0], ",".join(map(str, self.argument(item)))

    def argument(self, item: Item) -> tuple[int, ...]:
        ids = item[1]
        return () if isinstance(ids, InvalidInputError) else ids

    def framed(self, item: Item, frame: Frame) -> Any:
        return with_prompt_framed("pair", item, frame)

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        from forwardcache.hf.batch.kernels import dists_at

        logits = runner.last_logits([task.encoded.fed for task in tasks])
        return list(dists_at(logits, [task.item[1] for task in tasks]))


OPERATION = LogprobsAt


def items(prompts: Sequence[Any], token_ids: Sequence[Any], vocab_size: int) -> list[Item]:
    """Each prompt with its ids, or with what is wrong with them, so that it fails alone.

    Raises:
        InvalidInputError: there are more of the one than of the other, or one prompt is given
            where a list of them belongs.
    """
    if isinstance(prompts, str | bytes):
        raise InvalidInputError(f"expected a list of prompts, got one {type(prompts).__name__}")
    if len(prompts) != len(token_ids):
        raise InvalidInputError(
            f"{len(prompts)} prompts need as many lists of token ids, got {len(token_ids)}"
        )
    ids = [_ids_or_error(each, vocab_size) for each in token_ids]
    return list(zip(prompts, ids, strict=True))


def _ids_or_error(token_ids: Any, vocab_size: int) -> tuple[int, ...] | InvalidInputError:
    try:
        return checked_ids(token_ids, vocab_size)
    except InvalidInputError as error:
        return error


def checked_ids(token_ids: Any, vocab_size: int) -> tuple[int, ...]:
    """``token_ids`` as a tuple of ints.

    Raises:
        InvalidInputError: they are empty, not integers, or outside the vocabulary.
    """
    import numpy as np

    try:
        ids = np.asarray(token_ids)
    except ValueError:
        raise InvalidInputError(f"token_ids must be one list, got {token_ids!r}") from None
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
        raise InvalidInputError(f"token_ids must be one or more integers, got {token_ids!r}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise InvalidInputError(
            f"token ids must be from 0 to {vocab_size - 1}, got {ids.min()} to {ids.max()}"
        )
    return tuple(ids.tolist())
