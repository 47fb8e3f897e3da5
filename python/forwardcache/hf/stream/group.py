"""The streams of a view: which row is whose, and what becomes of the others when one fails.

Only the engine's worker changes them. A forward is many streams', an error is one's: where a
forward of several rows raises, each row is read again alone, and only those that fail then end.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from forwardcache.errors import InvalidInputError
from forwardcache.hf.spec import ViewSpec
from forwardcache.hf.stream.decode import Rows
from forwardcache.hf.stream.generate import unreadable
from forwardcache.hf.stream.sample import Sampler

Chunk = dict[str, Any]


@dataclass(eq=False)
class Stream:
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
    drawn: list[int] = field(default_factory=list)
    ready: Chunk | BaseException | None = None
    produced: int = 0
    dropped: bool = False

    @property
    def last(self) -> int:
        """The token that was drawn last."""
        return self.drawn[-1]

    @property
    def fed(self) -> list[int]:
        """All tokens that its row has read, or reads next."""
        return [*self.prompt, *self.drawn]

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
            self.put(self._last_chunk("cancelled"))
        return ending

    def put(self, item: Chunk | BaseException) -> None:
        """Hands over to the loop; a loop that is gone reads no more."""
        try:
            self.loop.call_soon_threadsafe(self.chunks.put_nowait, item)
        except RuntimeError:
            self.dropped = True

    def take(self, logits: Tensor) -> bool:
        """Draws the next token, to be handed over; whether the stream goes on.

        Logits that nothing can be drawn from end this stream alone.
        """
        try:
            self.ready = self._chunk(self.sampler.draw(logits))
        except Exception as error:
            self.ready = error
        return isinstance(self.ready, dict) and self.ready["finish_reason"] is None

    def hand_over(self) -> None:
        """Hands over what was drawn. The row of a stream that ends is free by then."""
        if self.ready is not None:
            ready, self.ready = self.ready, None
            self.put(ready)

    def _chunk(self, token: int) -> Chunk:
        """The chunk of a token that was drawn.

        Raises:
            InvalidInputError: others should follow it, and the model can't read it.
        """
        self.drawn.append(token)
        if token in self.hidden_ids:
            return self._last_chunk("stop")
        self.produced += 1
        if token in self.stop_ids:
            return self._last_chunk("stop", token)
        if self.most is not None and self.produced >= self.most:
            return self._last_chunk("length", token)
        if token >= self.readable:
            raise unreadable(token, self.readable)
        return {"token_ids": [token], "index": 0, "finish_reason": None}

    def _last_chunk(self, reason: str, *tokens: int) -> Chunk:
        return {
            "token_ids": list(tokens),
            "index": 0,
            "finish_reason": reason,
            "completion_usage": {
                "prompt_tokens": len(self.prompt),
                "completion_tokens": self.produced,
                "total_tokens": len(self.prompt) + self.produced,
            },
        }


@dataclass(eq=False)
class Group:
    """The streams of one view, row by row, and those that join next."""

    rows: Rows
    is_measured: bool = False
    streams: list[Stream] = field(default_factory=list)
    joining: list[Stream] = field(default_factory=list)

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
            logits = _unless_it_fails(self.rows.step, [stream.last for stream in self.streams])
            if logits is None:
                self._begin_anew(self.streams)
            else:
                self._take(logits, self.streams)
        if self.joining:
            joining = self.joining
            logits = _unless_it_fails(self.rows.join, [stream.fed for stream in joining])
            if logits is None:
                self.joining = []
                self._begin_anew([*self.streams, *joining])
            else:
                self.streams, self.joining = self.streams + joining, []
                self._take(logits, joining)

    def fail(self, error: BaseException) -> None:
        """Ends every stream with ``error``."""
        for stream in (*self.streams, *self.joining):
            stream.put(error)
        self.streams, self.joining = [], []
        self.rows.keep([])

    def _begin_anew(self, streams: Sequence[Stream]) -> None:
        """Reads every row again, one at a time; those that fail end with their own error.

        The oldest come first: where memory is short, the youngest ends.
        """
        waiting, self.streams = list(streams), []
        self.rows.keep([])
        while waiting:
            stream = waiting.pop(0)
            try:
                logits = self.rows.join([stream.fed])
            except BaseException as error:
                # Its frames would hold the memory that others need.
                traceback.clear_frames(error.__traceback__)
                stream.put(error)
                logits = None
            if logits is not None:
                self.streams.append(stream)
                self._take(logits, [stream])
            elif len(self.rows) != len(self.streams):
                # It failed while it was put next to the others, which are torn now.
                waiting, self.streams = self.streams + waiting, []
                self.rows.keep([])

    def _take(self, logits: Tensor, last: Sequence[Stream]) -> None:
        """The next token of the streams of the last rows; those that end leave their rows."""
        going = [stream.take(row) for stream, row in zip(last, logits, strict=True)]
        self._keep([True] * (len(self.streams) - len(last)) + going)
        for stream in last:
            stream.hand_over()

    def _keep(self, going: list[bool]) -> None:
        if not all(going):
            kept = [row for row, goes_on in enumerate(going) if goes_on]
            self.rows.keep(kept)
            self.streams = [self.streams[row] for row in kept]


def _unless_it_fails(forward: Callable[[Any], Tensor], fed: Any) -> Tensor | None:
    """What ``forward`` gives; None if it raises, whatever that is: out of memory, a panic."""
    try:
        return forward(fed)
    except BaseException:
        return None
