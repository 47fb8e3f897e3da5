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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from forwardcache.errors import (
    ContextLengthError,
    EmptyPromptError,
    EngineStateError,
    InvalidInputError,
)
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.spec import BASE, FINETUNED, ViewSpec, scaled
from forwardcache.hf.stream.generate import eos_ids
from forwardcache.hf.stream.group import Chunk, Group, Stream
from forwardcache.hf.stream.request import Asked
from forwardcache.hf.stream.sample import Sampler
from forwardcache.hf.stream.way import StreamWay, needed_way

if TYPE_CHECKING:
    from forwardcache.hf.backend import HFBackend

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


class HFEngine:
    """Serves the views of a backend as token streams.

    Requests and chunks are those of ``forwardcache.conformance``. A request may name a view of its
    own: ``"view": "base"``, ``"ft"`` or ``"scaled:0.5"``. ``sampling_options`` takes
    ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``seed`` and the three penalties;
    ``stop_conditions`` takes ``max_tokens``, ``min_tokens``, ``stop_token_ids``,
    ``stop_token_ids_hidden`` (which aren't sent) and ``ignore_eos``. Any other option is refused by
    its name, unless its value changes nothing. Without ``max_tokens`` a stream ends at an
    end-of-text token or with the model's context.

    Which way streams decode is measured when an engine is made: over one cache that they share, or
    each with the cache that its model makes for itself, or, where neither gives the logits of a
    plain forward, by a forward of the whole stream a token. A stream that fails ends with its own
    error, and the others go on.

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
        UnsupportedModelError: the model isn't causal, or can't run on token ids alone.
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
        self._view = self._view_named(view)
        self._scorer.check(self._view)
        lm = self._scorer.causal_lm
        name = model_name or getattr(lm.config, "_name_or_path", "") or type(lm).__name__
        with self._scorer.lock:
            self._config = EngineConfig(name, max_positions(lm), max_rows)
        self._groups: dict[ViewSpec, Group] = {}
        self._way: StreamWay = self._scorer.run_in(
            self._view, lambda _: needed_way(self._scorer.runner.ways, self._scorer.model, lm)
        )
        self._waiting: deque[Stream] = deque()
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
        """Bytes of what is kept for streams from one token to the next."""
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
            NonFiniteError: the model's logits have a NaN or infinity.
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

    def _open(self, request: Mapping[str, Any], context: Any) -> Stream:
        stream = self._stream(request, context)
        with self._wake:
            if self._worker is None or self._stopping:
                raise EngineStateError("the engine isn't running: call start() first")
            self._waiting.append(stream)
            self._wake.notify()
        return stream

    def _stream(self, request: Mapping[str, Any], context: Any) -> Stream:
        asked = Asked.of(request)
        view = request.get("view")
        most = self._most(asked.token_ids, asked.max_tokens)
        stop_ids = (
            asked.stop_ids
            if asked.ignores_eos
            else asked.stop_ids | eos_ids(self._scorer.causal_lm)
        )
        ending = sorted(stop_ids | asked.hidden_ids)
        return Stream(
            prompt=asked.token_ids,
            view=self._view if view is None else self._view_named(view),
            sampler=Sampler(asked.sampling, asked.token_ids, late=ending, least=asked.min_tokens),
            most=most,
            readable=self._scorer.runner.readable_ids,
            stop_ids=stop_ids,
            hidden_ids=asked.hidden_ids,
            context=context,
            loop=asyncio.get_running_loop(),
        )

    def _most(self, prompt: tuple[int, ...], asked: int | None) -> int | None:
        """Tokens that the stream may produce; None without any limit."""
        if not prompt:
            raise EmptyPromptError("token_ids is empty: give at least one token")
        rows = self._scorer.runner.readable_ids
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

    def _view_named(self, name: Any) -> ViewSpec:
        """The view that a request names, with its adapter.

        Raises:
            InvalidInputError: there is no such view.
        """
        if not isinstance(name, str):
            raise InvalidInputError(f"view must be a text, got {name!r}")
        adapters = self._scorer.adapters
        word, _, adapter = name.rpartition(":")
        if adapters is None or adapter not in adapters.names:
            return self._scorer.resolved(_view_named(name))
        return self._scorer.resolved(replace(_view_named(word), adapter=adapter))

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

    def _group_of(self, view: ViewSpec) -> Group:
        if view not in self._groups:
            rows = self._way.rows(self._scorer.model, self._scorer.causal_lm)
            self._groups[view] = Group(rows)
        return self._groups[view]

    def _advance(self, group: Group, view: ViewSpec) -> None:
        group.let_go()
        if not group:
            return
        try:
            self._scorer.run_in(view, lambda _encoder: self._decode(group))
            self.steps += 1
        except BaseException as error:
            # Out of memory, a broken hook, a panic: those streams get it, the engine goes on.
            group.fail(error)

    def _decode(self, group: Group) -> None:
        """A step of a group, whose view is measured before its first one: each is its own model."""
        if not group.is_measured:
            model, lm = self._scorer.model, self._scorer.causal_lm
            group.rows = needed_way(self._scorer.runner.ways, model, lm).rows(model, lm)
            group.is_measured = True
        group.decode()


def _view_named(name: str) -> ViewSpec:
    """The view that a request names, but for its adapter.

    Raises:
        InvalidInputError: there is no such view.
    """
    if name in ("base", "ft"):
        return BASE if name == "base" else FINETUNED
    kind, _, lam = name.partition(":")
    if kind != "scaled":
        raise InvalidInputError(f'view must be "base", "ft" or "scaled:LAMBDA", got {name!r}')
    try:
        return scaled(float(lam)).canonical()
    except ValueError as error:
        raise InvalidInputError(f"the scale of view {name!r} is not a finite number") from error
