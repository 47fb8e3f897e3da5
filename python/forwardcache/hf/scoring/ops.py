"""The scoring operations: what each one encodes, needs of the model, and gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from forwardcache.errors import InvalidInputError, ViewParameterError
from forwardcache.hf.batch.kernels import (
    TokenKernel,
    dists_at,
    logprobs_and_greedy,
    token_logprobs,
    top_dists,
)
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.text.chat import Frame, first_framed, key_of
from forwardcache.hf.text.encode import Form
from forwardcache.scoring import ContinuationLogprob, RollingLogprob


class Runner(Protocol):
    """Runs rows through the model: in batches (``forward``) or behind a prefix (``prefix``)."""

    def last_logits(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """Logits after the last token of each row: [rows, vocab]."""

    def scored_logprobs(
        self, items: Sequence[Encoded], kernel: TokenKernel = token_logprobs
    ) -> list[Tensor]:
        """What ``kernel`` gives for each item's scored tokens: [scored, ...] each, on the CPU."""


class Task:
    """One item on its way: what the caller gave, and its tokens.

    Args:
        item: What the caller gave.
        encoded: Its tokens, or what gives them when they are first asked for: a value that is found
            needs none.
    """

    __slots__ = ("_encoded", "item")

    def __init__(self, item: Any, encoded: Encoded | Callable[[], Encoded]) -> None:
        self.item = item
        self._encoded = encoded

    @property
    def encoded(self) -> Encoded:
        """The item's tokens."""
        if not isinstance(self._encoded, Encoded):
            self._encoded = self._encoded()
        return self._encoded


def _itself(item: Any) -> Any:
    return item


def _as_it_is(item: Any, frame: Frame) -> Any:
    return item


def _framed(item: Any, frame: Frame) -> Any:
    return frame(item)


@dataclass(frozen=True, slots=True)
class Operation:
    """One scoring operation with its arguments.

    Attributes:
        name: Its name in the key and the trace.
        form: What of an item is encoded.
        run: Scores tasks that go through the model together.
        top_k: What the key and the trace have for it; 0 where it means nothing.
        last_only: Whether it needs the logits of one position a row only.
        text: The part of an item that is encoded.
        key: An item as the cache's key: a str or a tuple of them.
        argument: What of an item, beside its tokens, decides its value.
        framed: An item with its prompt in the chat template.
    """

    name: str
    form: Form
    run: Callable[[Runner, Sequence[Task]], list[Any]]
    top_k: int = 0
    last_only: bool = False
    text: Callable[[Any], Any] = _itself
    key: Callable[[Any], Any] = _itself
    argument: Callable[[Any], Any] = lambda _: None
    framed: Callable[[Any, Frame], Any] = _as_it_is


def next_token_dist(top_k: int) -> Operation:
    """The ``top_k`` most likely next tokens of a prompt.

    Raises:
        ViewParameterError: ``top_k`` is not an integer of at least 1.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
        raise ViewParameterError(f"top_k must be an integer of at least 1, got {top_k!r}")
    k = int(top_k)

    def run(runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        return list(top_dists(runner.last_logits([task.encoded.fed for task in tasks]), k))

    return Operation(
        "next_token_dist", "prompt", run, top_k=k, last_only=True, key=key_of, framed=_framed
    )


def _token_dist_at(runner: Runner, tasks: Sequence[Task]) -> list[Any]:
    logits = runner.last_logits([task.encoded.fed for task in tasks])
    return list(dists_at(logits, [task.item[1] for task in tasks]))


def _rolling(runner: Runner, tasks: Sequence[Task]) -> list[Any]:
    scored = runner.scored_logprobs([task.encoded for task in tasks])
    pairs = zip(tasks, scored, strict=True)
    return [rolling_value(task.encoded, logprobs.numpy()) for task, logprobs in pairs]


def rolling_value(encoded: Encoded, logprobs: Any) -> RollingLogprob:
    """The value of a text whose scored tokens have these log-probabilities."""
    total = float(np.sum(logprobs, dtype=np.float64))
    ids = np.array(encoded.token_ids, dtype=np.int64)
    return RollingLogprob(ids, logprobs, len(encoded.token_ids), total)


def _logprob_of(runner: Runner, tasks: Sequence[Task]) -> list[Any]:
    scored = runner.scored_logprobs([task.encoded for task in tasks])
    return [float(logprobs.double().sum()) for logprobs in scored]


def _continuation(runner: Runner, tasks: Sequence[Task]) -> list[Any]:
    scored = runner.scored_logprobs([task.encoded for task in tasks], logprobs_and_greedy)
    return [
        ContinuationLogprob(float(each[:, 0].double().sum()), len(each), bool(each[:, 1].all()))
        for each in scored
    ]


def _windows(runner: Runner, tasks: Sequence[Task]) -> list[Any]:
    return [each.numpy() for each in runner.scored_logprobs([task.encoded for task in tasks])]


ROLLING_LOGPROB = Operation("rolling_logprob", "text", _rolling)
# Its tasks are texts until they are run, and their windows then.
ROLLING_WINDOWS = Operation("rolling_logprob_windows", "windows", _windows)
LOGPROB_OF = Operation("logprob_of", "pair", _logprob_of, key=key_of, framed=first_framed)
CONTINUATION_LOGPROB = Operation(
    "continuation_logprob",
    "tokens",
    _continuation,
    key=lambda item: tuple(",".join(map(str, ids)) for ids in item),
)


def _prompt_of(item: tuple[Any, tuple[int, ...] | InvalidInputError]) -> Any:
    """The prompt of a prompt with ids; raises what is wrong with those ids."""
    prompt, ids = item
    if isinstance(ids, InvalidInputError):
        raise ids
    return prompt


# An item is (prompt, ids); the ids are part of the key, exactly.
TOKEN_DIST_AT = Operation(
    "logprobs_at",
    "prompt",
    _token_dist_at,
    last_only=True,
    text=_prompt_of,
    key=lambda item: key_of((item[0], ",".join(map(str, item[1])))),
    argument=lambda item: item[1],
    framed=first_framed,
)


def rolling_logprob(*, windows: bool) -> Operation:
    """Each token of a text; with ``windows`` of one of any length."""
    return ROLLING_WINDOWS if windows else ROLLING_LOGPROB


def form_of(op: str, *, windows: bool = False) -> Form:
    """What the items of the operation called ``op`` are.

    Args:
        op: Its name.
        windows: Whether whole texts may be longer than the context.

    Raises:
        InvalidInputError: there is no such operation.
    """
    forms: dict[str, Form] = {
        "next_token_dist": "prompt",
        "logprobs_at": "prompt",
        "rolling_logprob": rolling_logprob(windows=windows).form,
        "logprob_of": "pair",
        "continuation_logprob": "tokens",
    }
    if op not in forms:
        raise InvalidInputError(f"unknown op {op!r}; there are {', '.join(forms)}")
    return forms[op]


def checked_ids(token_ids: Any, vocab_size: int) -> tuple[int, ...]:
    """``token_ids`` as a tuple of ints.

    Raises:
        InvalidInputError: they are empty, not integers, or outside the vocabulary.
    """
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


def items_with_ids(
    prompts: Sequence[Any], token_ids: Sequence[Any], vocab_size: int
) -> list[tuple[Any, tuple[int, ...] | InvalidInputError]]:
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
