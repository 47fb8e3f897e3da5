"""``HFEngine``: a backend's views as token streams, many requests decoding together.

Three parts. ``generate`` runs on the caller's event loop and only waits for chunks. One worker
thread admits requests, decodes a token for every row of every view in turn, and hands chunks over;
it alone touches the model, under the model's lock. A stream is known to both: what the loop asks of
it (cancelled, dropped) the worker sees before its next step.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from forwardcache.errors import (
    ContextLengthError,
    EmptyPromptError,
    EngineStateError,
    InvalidInputError,
)
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.spec import BASE, FINETUNED, ViewSpec, scaled
from forwardcache.hf.stream.decode import DecodingRows
from forwardcache.hf.stream.generate import eos_ids, unreadable
from forwardcache.hf.stream.request import Asked
from forwardcache.hf.stream.sample import Sampler

if TYPE_CHECKING:
    from forwardcache.hf.backend import HFBackend

Chunk = dict[str, Any]

_EXIT_POLL_S = 0.001


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What ``start`` returns.

    Attributes:
        model: The model's name.
        context_length: Most tokens of prompt and completion together; None if there is no limit.
        max_rows: Most streams that decode at once.
    """

    model: str
    context_length: int | None
    max_rows: int


@dataclass(eq=False)
class _Stream:
    """One request under way."""

    prompt: tuple[int, ...]
    view: ViewSpec
    sampler: Sampler
    most: int | None
    readable: int
    stop_ids: frozenset[int]
    hidden_ids: frozenset[int]
    context: Any
    loop: asyncio.AbstractEventLoop
    chunks: asyncio.Queue[Chunk | BaseException] = field(default_factory=asyncio.Queue)
    produced: int = 0
    last: int = -1
    dropped: bool = False

    def ends_now(self) -> bool:
        """Ends it if the caller stopped it or no longer reads it; whether it has ended.

        A context that can't be asked ends its own stream alone: the others share this thread.
        """
        try:
            ending = self.dropped or bool(self.context.is_stopped() or self.context.is_killed())
        except Exception as error:
            refused = InvalidInputError(
                f"can't ask the request's context whether to stop ({error!r}): it needs "
                "is_stopped() and is_killed()"
            )
            refused.__cause__ = error
            self.put(refused)
            return True
        if ending:
            self.end("cancelled")
        return ending

    def put(self, item: Chunk | BaseException) -> None:
        """Hands over to the loop; a loop that is gone reads no more."""
        try:
            self.loop.call_soon_threadsafe(self.chunks.put_nowait, item)
        except RuntimeError:
            self.dropped = True

    def end(self, reason: str, token_ids: list[int] | None = None) -> None:
        """Hands over the terminal chunk."""
        self.put(
            {
                "token_ids": token_ids or [],
                "index": 0,
                "finish_reason": reason,
                "completion_usage": {
                    "prompt_tokens": len(self.prompt),
                    "completion_tokens": self.produced,
                    "total_tokens": len(self.prompt) + self.produced,
                },
            }
        )

    def take(self, logits: Tensor) -> bool:
        """Draws the next token and hands it over; whether the stream goes on."""
        self.last = self.sampler.draw(logits)
        if self.last in self.hidden_ids:
            self.end("stop")
            return False
        self.produced += 1
        if self.last in self.stop_ids:
            reason = "stop"
        elif self.most is not None and self.produced >= self.most:
            reason = "length"
        elif self.last >= self.readable:
            self.put(unreadable(self.last, self.readable))
            return False
        else:
            self.put({"token_ids": [self.last], "index": 0, "finish_reason": None})
            return True
        self.end(reason, [self.last])
        return False


@dataclass(eq=False)
class _Group:
    """The streams of one view, row by row. Only the worker changes it."""

    rows: DecodingRows
    streams: list[_Stream] = field(default_factory=list)
    joining: list[_Stream] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.streams) + len(self.joining)

    def let_go(self) -> None:
        """Ends the streams that were cancelled or dropped, and frees their rows."""
        ending = [stream for stream in (*self.streams, *self.joining) if stream.ends_now()]
        self.joining = [stream for stream in self.joining if stream not in ending]
        self._keep([stream not in ending for stream in self.streams])

    def decode(self) -> None:
        """One token for every stream; for those that join, a forward reads their prompts first."""
        if self.streams:
            logits = self.rows.step([stream.last for stream in self.streams])
            self._keep([stream.take(row) for stream, row in zip(self.streams, logits, strict=True)])
        if self.joining:
            logits = self.rows.join([stream.prompt for stream in self.joining])
            going = [stream.take(row) for stream, row in zip(self.joining, logits, strict=True)]
            going = [*[True] * len(self.streams), *going]
            self.streams, self.joining = self.streams + self.joining, []
            self._keep(going)

    def fail(self, error: BaseException) -> None:
        """Ends every stream with ``error``."""
        for stream in (*self.streams, *self.joining):
            stream.put(error)
        self.streams, self.joining = [], []
        self.rows.keep([])

    def _keep(self, going: list[bool]) -> None:
        if not all(going):
            kept = [row for row, goes_on in enumerate(going) if goes_on]
            self.rows.keep(kept)
            self.streams = [self.streams[row] for row in kept]


class HFEngine:
    """Serves the views of a backend as token streams.

    Requests and chunks are those of ``forwardcache.conformance``. A request may name a view of its
    own: ``"view": "base"``, ``"ft"`` or ``"scaled:0.5"``. ``sampling_options`` takes
    ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``seed`` and the three penalties;
    ``stop_conditions`` takes ``max_tokens``, ``min_tokens``, ``stop_token_ids``,
    ``stop_token_ids_hidden`` (which aren't sent) and ``ignore_eos``. Any other option is refused by
    its name, unless its value changes nothing. Without ``max_tokens`` a stream ends at an
    end-of-text token or with the model's context.

    Cancelling is seen within one decoding step. Whoever stops reading a stream should close it
    (``aclose``, or leave ``async for`` by its end); its row and its memory are then freed.

    Args:
        backend: Whose model decodes. Scoring with the same model takes turns with decoding.
        view: The view of requests that name none.
        model_name: What ``start`` calls the model; by default its own name or path.
        max_rows: Most streams that decode at once; more wait.

    Attributes:
        steps: Decoding steps made so far; one gives a token to every stream of a view.

    Raises:
        InvalidInputError: the view is unknown, or ``max_rows`` is below 1.
        UnsupportedModelError: the model can't decode several rows together.
    """

    def __init__(
        self,
        backend: HFBackend,
        *,
        view: str = "ft",
        model_name: str | None = None,
        max_rows: int = 64,
    ) -> None:
        if max_rows < 1:
            raise InvalidInputError(f"max_rows must be at least 1, got {max_rows}")
        self._scorer = backend._scorer
        self._view = _view_named(view)
        self._scorer.check(self._view)
        lm = self._scorer.causal_lm
        name = model_name or getattr(lm.config, "_name_or_path", "") or type(lm).__name__
        with self._scorer.lock:
            self._config = EngineConfig(name, max_positions(lm), max_rows)
        self._groups: dict[ViewSpec, _Group] = {}
        rows = self._group_of(self._view).rows
        self._scorer.run_in(self._view, lambda _encoder: rows.check())
        self._waiting: deque[_Stream] = deque()
        self._wake = threading.Condition()
        self._worker: threading.Thread | None = None
        self._stopping = False
        self.steps = 0

    @property
    def in_flight(self) -> int:
        """Streams that wait or decode."""
        with self._wake:
            return len(self._waiting) + self._decoding()

    @property
    def kv_bytes(self) -> int:
        """Bytes of the keys and values held for streams."""
        return sum(group.rows.nbytes for group in self._groups.values())

    async def start(self, worker_id: int) -> EngineConfig:
        """Starts the worker; afterwards ``generate`` works.

        Args:
            worker_id: A number for the name of its thread.

        Raises:
            EngineStateError: the engine is running already.
        """
        if self._worker is not None:
            raise EngineStateError("the engine is running: call cleanup() before start()")
        self._stopping = False
        self._worker = threading.Thread(
            target=self._work, name=f"forwardcache-engine-{worker_id}", daemon=True
        )
        self._worker.start()
        return self._config

    async def generate(self, request: Mapping[str, Any], context: Any) -> AsyncIterator[Chunk]:
        """Streams chunks, the last with ``finish_reason`` and ``completion_usage``.

        Args:
            request: ``token_ids``, and the options that the class describes.
            context: Asked by ``is_stopped()`` and ``is_killed()`` before every step, on the
                worker's thread.

        Yields:
            Dicts with ``token_ids`` (one id, none in a cancelled stream's last), ``index`` 0 and
            ``finish_reason``: None, then "stop", "length" or "cancelled".

        Raises:
            EngineStateError: the engine isn't running, or was cleaned up meanwhile.
            InvalidInputError: the request can't be served, its context can't be asked, or the
                model drew a token that it can't read; the message says why.
        """
        stream = self._open(request, context)
        try:
            while True:
                item = await stream.chunks.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item["finish_reason"] is not None:
                    return
        finally:
            stream.dropped = True
            with self._wake:
                self._wake.notify()

    async def abort(self, context: Any) -> None:
        """Stops the stream of a context.

        Args:
            context: Whose ``stop_generating()`` is called.
        """
        context.stop_generating()

    async def cleanup(self) -> None:
        """Ends all streams and the worker; idempotent, and safe before ``start``."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        with self._wake:
            self._stopping = True
            self._wake.notify()
        while worker.is_alive():
            # At most one decoding step; the loop must stay free meanwhile.
            await asyncio.sleep(_EXIT_POLL_S)

    def _open(self, request: Mapping[str, Any], context: Any) -> _Stream:
        stream = self._stream(request, context)
        with self._wake:
            if self._worker is None or self._stopping:
                raise EngineStateError("the engine isn't running: call start() first")
            self._waiting.append(stream)
            self._wake.notify()
        return stream

    def _stream(self, request: Mapping[str, Any], context: Any) -> _Stream:
        asked = Asked.of(request)
        view = request.get("view")
        most = self._most(asked.token_ids, asked.max_tokens)
        stop_ids = (
            asked.stop_ids
            if asked.ignores_eos
            else asked.stop_ids | eos_ids(self._scorer.causal_lm)
        )
        ending = sorted(stop_ids | asked.hidden_ids)
        return _Stream(
            prompt=asked.token_ids,
            view=self._view if view is None else _view_named(view),
            sampler=Sampler(asked.sampling, asked.token_ids, late=ending, least=asked.min_tokens),
            most=most,
            readable=self._readable(),
            stop_ids=stop_ids,
            hidden_ids=asked.hidden_ids,
            context=context,
            loop=asyncio.get_running_loop(),
        )

    def _most(self, prompt: tuple[int, ...], asked: int | None) -> int | None:
        """Tokens that the stream may produce; None without any limit."""
        if not prompt:
            raise EmptyPromptError("token_ids is empty: give at least one token")
        rows = self._readable()
        strange = [token for token in prompt if not 0 <= token < rows]
        if strange:
            raise InvalidInputError(f"token id {strange[0]} is not in 0..{rows - 1}")
        context = self._config.context_length
        if context is None:
            return asked
        if len(prompt) >= context:
            raise ContextLengthError(
                f"{len(prompt)} prompt tokens leave no room in the context of {context}"
            )
        available = context - len(prompt)
        return available if asked is None else min(asked, available)

    def _readable(self) -> int:
        """Number of ids that the model reads."""
        runner = self._scorer.runner
        return runner.vocab_size if runner.embedding_rows is None else runner.embedding_rows

    # --- on the worker thread ---------------------------------------------------------------

    def _work(self) -> None:
        while self._await_work():
            self._admit()
            for view, group in self._groups.items():
                self._advance(group, view)
        error = EngineStateError("the engine was cleaned up while the stream was open")
        for group in self._groups.values():
            group.fail(error)
        while self._waiting:
            self._waiting.popleft().put(error)

    def _await_work(self) -> bool:
        """Waits for something to do; whether to go on."""
        with self._wake:
            while not (self._stopping or self._waiting or self._decoding()):
                self._wake.wait()
            return not self._stopping

    def _decoding(self) -> int:
        return sum(map(len, self._groups.values()))

    def _admit(self) -> None:
        """Moves streams that wait to the rows of their view, while rows are free."""
        with self._wake:
            waiting, self._waiting = self._waiting, deque()
            free = self._config.max_rows - self._decoding()
            for stream in waiting:
                if stream.ends_now():
                    continue
                if free > 0:
                    free -= 1
                    self._group_of(stream.view).joining.append(stream)
                else:
                    self._waiting.append(stream)

    def _group_of(self, view: ViewSpec) -> _Group:
        if view not in self._groups:
            rows = DecodingRows(self._scorer.model, self._scorer.causal_lm)
            self._groups[view] = _Group(rows)
        return self._groups[view]

    def _advance(self, group: _Group, view: ViewSpec) -> None:
        group.let_go()
        if not group:
            return
        try:
            self._scorer.run_in(view, lambda _encoder: group.decode())
            self.steps += 1
        except BaseException as error:
            # Out of memory, a broken hook, a panic: those streams get it, the engine goes on.
            group.fail(error)


def _view_named(name: str) -> ViewSpec:
    """The view that a request names.

    Raises:
        InvalidInputError: there is no such view.
    """
    if not isinstance(name, str):
        raise InvalidInputError(f"view must be a text, got {name!r}")
    if name in ("base", "ft"):
        return BASE if name == "base" else FINETUNED
    kind, _, lam = name.partition(":")
    if kind != "scaled":
        raise InvalidInputError(f'view must be "base", "ft" or "scaled:LAMBDA", got {name!r}')
    try:
        return scaled(float(lam)).canonical()
    except ValueError as error:
        raise InvalidInputError(f"the scale of view {name!r} is not a finite number") from error
