"""What a scoring operation is: all that the rest of the package asks one.

Each operation is one file in ``operations``, whose class derives from ``Operation``. To add one,
begin with a copy of ``tests/operations/next_token_entropy.py`` as ``operations/NAME.py``:

- ``name`` is the file's name, and ``OPERATION`` at its end is the class.
- ``form``, ``columns``, ``run`` and ``row`` have no default; ``last_only`` goes with a ``run`` that
  asks for ``last_logits``.
- A value that is no float also needs ``kind``, ``stored``, ``holds``, ``is_finite``, ``is_same``,
  ``pack``, ``unpack`` and ``total``.
- A figure other than view - base also needs ``figure``, ``against`` and ``noise``; another name for
  the difference needs ``figure`` alone.

Neither numpy nor torch is imported with these files: a command line and a report ask them too. What
computes imports what it needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from forwardcache.hf.batch.kernels import TokenKernel
    from forwardcache.hf.batch.row import Encoded
    from forwardcache.hf.text.chat import Frame
    from forwardcache.hf.text.encode import Form

Column = Literal[
    "text", "bool", "int64", "float64", "text[]", "bool[]", "int64[]", "float32[]", "float64[]",
    "uint8[]",
]  # fmt: skip
"""The type of a row's field; ``[]`` for a list of them. Bytes (uint8) are in no row."""


class Runner(Protocol):
    """Runs rows through the model: in batches, or behind a prefix that they share."""

    def last_logits(self, rows: Sequence[tuple[int, ...]]) -> Any:
        """Logits after the last token of each row: a tensor, [rows, vocab]."""

    def scored_logprobs(self, items: Sequence[Encoded], kernel: TokenKernel = ...) -> list[Any]:
        """What ``kernel`` gives for each item's scored tokens: tensors, [scored, ...], on the CPU.

        Args:
            items: The rows.
            kernel: By default the log-probability of each token, nats.
        """


class Task(Protocol):
    """One item on its way: what the caller gave, and its tokens."""

    @property
    def item(self) -> Any:
        """What the caller gave."""

    @property
    def encoded(self) -> Encoded:
        """Its tokens."""


class AskedPrompt(Protocol):
    """A line of a file of prompts."""

    @property
    def text(self) -> str:
        """The prompt; empty where there is none."""

    @property
    def completion(self) -> str | None:
        """What is scored after it, if the line has one."""

    @property
    def messages(self) -> Any:
        """The turns of a chat, where the prompt is one."""

    @property
    def asked(self) -> Any:
        """Messages, or else the text."""


@dataclass(frozen=True, slots=True)
class Figure:
    """How far a view's value is from base's.

    Attributes:
        nats: The fields of a row that may hold it, the exact one first. Any other is a lower bound.
        columns: The type of each field that a row has for it, those of ``nats`` included.
        title: What a table and a plot call it, without its unit.
        is_signed: Whether it is a difference, which has a sign, and not a divergence. Tables then
            say in which share of the prompts it is above 0 ("better") and below ("worse").
    """

    nats: tuple[str, ...]
    columns: Mapping[str, Column]
    title: str
    is_signed: bool

    def is_bound(self, field: str) -> bool:
        """Whether ``field``, one of ``nats``, holds a lower bound."""
        return field != self.nats[0]


DELTA = Figure(("delta_nats",), {"delta_nats": "float64"}, "view - base", is_signed=True)
"""View minus base, of a log-probability."""


@dataclass(frozen=True, slots=True)
class Apart:
    """How far one field is apart in two rows of the same item and view.

    Attributes:
        field: Its name; in brackets the place in a list, or the id of a token.
        kept: What one row has.
        fresh: What the other has, which was computed to check it.
        difference: How far these are apart, nats; infinite where they can't be the same value.
        tolerances: How many tolerances, in nats a token, that may be: of a sum over tokens one a
            token, of a difference of two views twice as many.
        unit: What the difference is counted in; ``positions`` of a list whose values are the same
            or they aren't.
    """

    field: str
    kept: Any
    fresh: Any
    difference: float
    tolerances: float = 1.0
    unit: Literal["nats", "positions"] = "nats"

    @property
    def nats(self) -> float:
        """The difference in nats a token, which is what a tolerance is held against."""
        return self.difference / self.tolerances


class Operation:
    """One scoring operation; its options are the arguments of its class.

    By default its value is a float, a log-probability in nats.

    Attributes:
        name: In the key, the trace and the rows; that of the file.
        options: Names of what ``of`` takes.
        form: What of an item is encoded: a ``prompt``, a whole ``text`` (or one in ``windows``), a
            ``pair`` of prompt and completion, or a pair of lists of ``tokens``.
        last_only: Whether it needs the logits of one position a row only.
        every_position: Whether it needs what the body gives at all positions of a row, so that no
            row shares another's prefix.
        top_k: What the key and the trace have for it; 0 where it means nothing.
        in_windows: Whether a text may be longer than the context: ``run`` then gives what
            ``joined`` makes a value of.
        needs_only_prompts: Whether a line of a file of prompts has all that an item needs.
        takes_template: Whether a prompt may be put into a chat template.
        kind: The name that stored values of its type have; operations share one that pack alike.
        stored: Type of each array of a stored value.
        columns: Type of each field of a row.
        names_tokens: Whether a row lists tokens of a distribution with their log-probabilities.
        figure: How a value is compared with base's.
    """

    name: str
    options: ClassVar[tuple[str, ...]] = ()
    form: Form
    last_only: bool = False
    every_position: ClassVar[bool] = False
    top_k: int = 0
    in_windows: bool = False
    needs_only_prompts: ClassVar[bool] = True
    takes_template: ClassVar[bool] = True
    kind: ClassVar[str] = "float"
    stored: ClassVar[Mapping[str, Column]] = {"value": "float64[]"}
    columns: ClassVar[Mapping[str, Column]]
    names_tokens: ClassVar[bool] = False
    figure: ClassVar[Figure] = DELTA

    def __init_subclass__(cls) -> None:
        if "stored" in vars(cls) and "kind" not in vars(cls):
            raise TypeError(f"{cls.__name__} has its own `stored` and needs its own `kind`")

    @classmethod
    def of(cls, **options: Any) -> Operation:
        """The operation with those of ``options`` that it has."""
        return cls(**{name: options[name] for name in cls.options if name in options})

    @classmethod
    def row_columns(cls) -> dict[str, Column]:
        """The type of each field that a row has for a value and its figure."""
        return {**cls.columns, **cls.figure.columns}

    # From an item to its tokens.

    def text(self, item: Any) -> Any:
        """The part of an item that is encoded."""
        return item

    def key(self, item: Any) -> Any:
        """An item as the cache's key: a str, or a tuple of them, or of a prompt and these."""
        return item

    def argument(self, item: Any) -> Any:
        """What of an item, other than its tokens, decides its value."""
        return None

    def framed(self, item: Any, frame: Frame) -> Any:
        """An item with its prompt in the chat template."""
        return with_prompt_framed(self.form, item, frame)

    # From tokens to a value.

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        """The values of tasks that go through the model together."""
        raise NotImplementedError

    def without_run(self, encoded: Encoded) -> Any:
        """The value of an item that nothing has to be run for; None where something has."""
        return None

    def joined(self, encoded: Encoded, windows: Sequence[Any]) -> Any:
        """The value of a text out of what ``run`` gave for its windows."""
        raise NotImplementedError

    # The value.

    def holds(self, type_: object) -> bool:
        """Whether that is the type of this operation's values."""
        return type_ is float

    def is_finite(self, value: Any) -> bool:
        """Whether a value has no NaN and no infinity where there should be none."""
        return math.isfinite(value)

    def is_same(self, kept: Any, fresh: Any, tolerance: float) -> bool:
        """Whether two values of one item differ by no more than the arithmetic's noise.

        Args:
            kept: One that was kept.
            fresh: One of a new forward.
            tolerance: Nats a token.
        """
        # A sum over an unknown number of tokens, each of which has some nats.
        return is_close(kept, fresh, tolerance * max(1.0, abs(fresh)))

    def pack(self, value: Any) -> dict[str, Any]:
        """A value as arrays [n], a number as an array of one; ``stored`` has their types."""
        return {"value": (value,)}

    def unpack(self, arrays: Mapping[str, Any]) -> Any:
        """The value that ``pack`` was called on.

        Raises:
            ValueError: the arrays are no value; so do LookupError and InvalidInputError say.
        """
        [value] = arrays["value"].tolist()
        return value

    # A job: a file of prompts in, rows out.

    def lacking(self, prompt: AskedPrompt) -> str | None:
        """Why this can't be asked of a prompt; None if it can."""
        return None

    def item(self, prompt: AskedPrompt) -> Any:
        """What the model is asked for a prompt."""
        return prompt.asked

    def ask(self, view: Any, items: Sequence[Any]) -> list[Any]:
        """The values that rows are made of; an error stands for an item that has none."""
        found: list[Any] = view.values(self, items, on_error="return")
        return found

    def row(self, value: Any, *, top_k: int) -> dict[str, Any]:
        """The fields of a row.

        Args:
            value: What ``ask`` gave.
            top_k: Tokens that a row is to have; the value may have more.

        Returns:
            Plain values and one-dimensional arrays, in the row's order.
        """
        raise NotImplementedError

    def apart(self, kept: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[Apart]:
        """How far two rows of one item and view are apart, field by field.

        Args:
            kept: One that was read from a file: nothing is sure about its values.
            fresh: One that was computed just now, as ``row`` and ``against`` give it.
        """
        tokens = max(1.0, fresh.get("num_tokens") or 1.0)
        figures = self.figure.columns
        return [
            field_apart(
                name, kind, kept.get(name), fresh.get(name), tokens * (1 + (name in figures))
            )
            for name, kind in self.row_columns().items()
        ]

    # Compared with base.

    def beside_base(self) -> Operation:
        """The operation as it is asked of base and then of other views, for one chunk of prompts.

        What compares them may be kept in it meanwhile; by default nothing has to be.
        """
        return self

    def total(self, value: Any) -> float:
        """The log-probability that a difference is taken of, nats."""
        return float(value)

    def against(
        self, view: Any, items: Sequence[Any], values: Sequence[Any], bases: Sequence[Any],
        *, top_k: int,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The fields of ``figure`` for each item.

        Args:
            view: The view, entered, for what the values don't tell.
            items: What was asked.
            values: The view's, as ``ask`` gave them.
            bases: Those of base.
            top_k: Tokens of a row.
        """
        [field] = self.figure.nats
        pairs = zip(map(self.total, values), map(self.total, bases), strict=True)
        return [{field: value - base} for value, base in pairs]

    def noise(self, fresh: Fresh, items: Sequence[Any]) -> list[float]:
        """How far the value of each item is from itself in another batch, nats.

        Args:
            fresh: Scores past the cache.
            items: Those that can be scored.
        """
        pairs = without_errors(fresh(self, items, alone=False), fresh(self, items, alone=True))
        return [abs(self.total(one) - self.total(other)) for one, other in pairs]


class Fresh(Protocol):
    """Scores items in one view, past the cache."""

    def __call__(self, op: Operation, items: Sequence[Any], *, alone: bool) -> list[Any]:
        """The value of each item, all in the batches of one plan or each alone; errors in place."""


def field_apart(name: str, kind: Column, kept: Any, fresh: Any, tolerances: float = 1.0) -> Apart:
    """How far a field is apart: numbers by their difference, lists at their worst place.

    Whole numbers, texts and truths are the same or they aren't.

    Args:
        name: The field's.
        kind: The column's type.
        kept: What a file has, of any type.
        fresh: What was computed.
        tolerances: As of ``Apart``; of a list each number may be one tolerance off.
    """
    if kind.endswith("[]") and _is_list(kept) and _is_list(fresh) and len(kept) == len(fresh):
        inner = kind.removesuffix("[]")
        places = [
            Apart(f"{name}[{at}]", one, other, _distance(inner, one, other))
            for at, (one, other) in enumerate(zip(kept, fresh, strict=True))
        ]
        return max(places, key=lambda each: each.difference, default=Apart(name, kept, fresh, 0.0))
    return Apart(name, kept, fresh, _distance(kind, kept, fresh), tolerances)


def divergence_tolerances(nats: float | None) -> float:
    """How many tolerances a divergence may be apart where each log-probability may be one.

    To first order it moves by sum(P * dp * log(P/Q)) and sum((P - Q) * dq): with every dp and dq
    one tolerance at most by E|log(P/Q)| + 2 TV, which is at most KL + 2 * sqrt(2 * KL) (Pinsker).
    The constant is for second order, and for the float32 of rows.

    Args:
        nats: The divergence; None for one that isn't finite.
    """
    size = abs(nats or 0.0)
    return 0.3 + size + 2.0 * math.sqrt(2.0 * size)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _distance(kind: str, kept: Any, fresh: Any) -> float:
    """Between two numbers of a column of floats; else 0.0 where both are equal."""
    if kind.startswith("float") and _is_number(kept) and _is_number(fresh):
        return abs(float(kept) - float(fresh))
    # JSON's true is no 1.
    is_same = type(kept) is type(fresh) and kept == fresh
    return 0.0 if is_same else math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def with_prompt_framed(form: Form, item: Any, frame: Frame) -> Any:
    """An item with its prompt in the chat template: itself, or the first field of a pair."""
    if form == "prompt":
        return frame(item)
    if form == "pair" and isinstance(item, tuple) and item:
        return (frame(item[0]), *item[1:])
    return item


def without_errors(one: Sequence[Any], other: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The pairs of which neither is an error."""
    pairs = zip(one, other, strict=True)
    return [pair for pair in pairs if not any(isinstance(each, Exception) for each in pair)]


def is_close(one: float, other: float, tolerance: float) -> bool:
    """Whether two numbers differ by at most ``tolerance``; NaN is close to NaN."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return one == other or abs(one - other) <= tolerance
