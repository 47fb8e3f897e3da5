"""What one scoring call is about, and where its values come from."""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

from forwardcache.errors import ForwardCacheError
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.model.identity import ModelState
from forwardcache.hf.scoring.task import Task
from forwardcache.hf.scoring.terms import scope_of
from forwardcache.hf.scoring.value_store import KeySpace
from forwardcache.hf.spec import ViewSpec
from forwardcache.hf.text.ahead import groups
from forwardcache.hf.text.chat import key_of
from forwardcache.hf.text.encode import Encoder, EncodingOptions
from forwardcache.operation import Operation


class ModelChangedError(Exception):
    """The model is not what it was when a call began; nothing of it may be kept."""


class NotFiniteError(Exception):
    """Some values are not finite and may not be stored; the call holds them."""


class Call:
    """One scoring call in one state of the model.

    Attributes:
        state: The state that its keys name.
        spec: The view that is run.
        op: What is computed.
        tasks: The items that can be scored, in their order; none before ``encode``.
        reported: Tokens whose progress is reported.
        computed: What this call computed, by key; a value that is not finite stays here only.
        fetched: What it took from the store, by key.
        key_space: Where its values stand in the store; None without one.
    """

    def __init__(
        self,
        state: ModelState,
        spec: ViewSpec,
        op: Operation,
        items: Sequence[Any],
        encoder: Encoder,
        *,
        options: EncodingOptions,
        key_space: KeySpace | None,
    ) -> None:
        self.state = state
        self.spec = spec
        self.op = op
        self.tasks: list[Task] = []
        self.reported = 0
        self.computed: dict[Any, Any] = {}
        self.fetched: dict[Any, Any] = {}
        self.key_space = key_space
        self._items = items
        self._encoder = encoder
        self._options = options
        self._outcomes: list[Task | ForwardCacheError | None] = []

    def beside(self, spec: ViewSpec, state: ModelState) -> Call:
        """The same call in another view, for looking up what there is; without a store."""
        asked = state, spec, self.op, self._items, self._encoder
        return Call(*asked, options=self._options, key_space=None)

    def keys(self) -> list[tuple[int, Any]]:
        """Position and key of each item that is of the right type."""
        return [
            (position, self._key(item))
            for position, item in enumerate(self._items)
            if not isinstance(item, ForwardCacheError) and self._is_of_its_type(item)
        ]

    def encode(self, found: Container[int] = ()) -> None:
        """Makes the tasks.

        Args:
            found: Positions of items whose values are there. Something with this call's keys has
                been scored, so it has tokens, which may wait until they are needed.
        """
        ready = [self._ready(item, at in found) for at, item in enumerate(self._items)]
        self._outcomes = self._completed(ready) if None in ready else ready
        self.tasks = [each for each in self._outcomes if isinstance(each, Task)]

    def _completed(
        self, ready: Sequence[Task | ForwardCacheError | None]
    ) -> list[Task | ForwardCacheError | None]:
        """``ready``, with what needs the tokenizer in the places of None."""
        missing = [item for item, task in zip(self._items, ready, strict=True) if task is None]
        encoded: list[Task | ForwardCacheError] = []
        for indices in groups(len(missing)):
            items = [missing[index] for index in indices]
            self._read_ahead(items)
            encoded += [self._task(item) for item in items]
        following = iter(encoded)
        return [next(following) if task is None else task for task in ready]

    def _ready(self, item: Any, is_found: bool) -> Task | ForwardCacheError | None:
        """The task of an item, as far as it needs no tokenizer."""
        if isinstance(item, ForwardCacheError):
            return item
        if is_found:
            return Task(item, partial(self._encode, item), self._key(item))
        try:
            encoded = self._encoder.known(self.op.form, self.op.text(item))
        except ForwardCacheError:
            return None
        return None if encoded is None else Task(item, encoded, self._key(item))

    def _read_ahead(self, items: Sequence[Any]) -> None:
        """Has the tokenizer read these items together; each is encoded after that."""
        if len(items) < 2:
            return
        texts = []
        for item in items:
            with suppress(ForwardCacheError):
                texts.append(self.op.text(item))
        self._encoder.read_ahead(self.op.form, texts)

    def _task(self, item: Any) -> Task | ForwardCacheError:
        try:
            return Task(item, self._encode(item), self._key(item))
        except ForwardCacheError as error:
            return error

    def _encode(self, item: Any) -> Encoded:
        return self._encoder.encode_framed(self.op.form, self.op.text(item))

    def _is_of_its_type(self, item: Any) -> bool:
        try:
            return self._encoder.takes(self.op.form, self.op.text(item))
        except ForwardCacheError:
            return False

    @property
    def outcomes(self) -> Sequence[Task | ForwardCacheError | None]:
        """For each item its task, or why it can't be scored; none before ``encode``."""
        return self._outcomes

    def newly(self, tokens: int) -> int:
        """How many of the tokens that were run now are of those that were asked for."""
        return tokens

    def tokens(self) -> int:
        """Tokens that the model would read for all tasks."""
        return sum(len(task.encoded.fed) for task in self.tasks)

    def _key(self, item: Any) -> Any:
        return key_of(self.op.key(item))

    @cached_property
    def scope(self) -> bytes:
        """Whatever else decides the call's values."""
        return scope_of(self.state.key, self.spec, self._options)

    def may_look_up(self, task: Task) -> bool:
        """Whether a task's value may go through the cache: all but those that aren't finite."""
        return not self.computed or self.may_keep(self.computed.get(task.key))

    def may_keep(self, value: Any) -> bool:
        """Whether a value is finite; an error is not, and None stands for one not computed yet."""
        if value is None:
            return True
        return not isinstance(value, ForwardCacheError) and self.op.is_finite(value)

    def raise_error(self) -> None:
        """Raises the error of the first item that can't be scored."""
        for each in self._outcomes:
            if isinstance(each, ForwardCacheError):
                raise each

    def results(self, values: Sequence[Any]) -> list[Any]:
        """``values`` of the tasks and the errors of the others, in the items' order."""
        following = iter(values)
        return [next(following) if isinstance(each, Task) else each for each in self._outcomes]
