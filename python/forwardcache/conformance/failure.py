"""What every failure has: a sentence, its fields, its check, and what was received."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Self

from forwardcache.conformance.chunk import Chunk
from forwardcache.conformance.tables import chunk_table

if TYPE_CHECKING:
    from forwardcache.conformance.report import Report

__all__ = ["ConformanceFailure"]


class ConformanceFailure(AssertionError):
    """An engine broke one rule of its contract.

    Attributes:
        check: Name of the check that found it.
        chunks: What the stream in question had sent until then, with times.
        report: The whole run so far; None on a failure that no run has raised.
    """

    sentence: ClassVar[str] = "the engine does not conform"
    check: str
    chunks: tuple[Chunk, ...]
    report: Report | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Set what a run fills in later; the fields are the subclass's own."""
        failure = super().__new__(cls, *args)
        failure.check, failure.chunks, failure.report = "", (), None
        return failure

    def having(self, chunks: Iterable[Chunk]) -> Self:
        """This failure, with what was received.

        Args:
            chunks: The stream's chunks in the order in which they came.
        """
        self.chunks = tuple(chunks)
        return self

    def due_to(self, error: BaseException | None) -> Self:
        """This failure, with the engine's own exception as its cause.

        Args:
            error: The exception; None if there was none.
        """
        self.__cause__ = error
        return self

    @property
    def message_line(self) -> str:
        """The sentence alone, without check and chunks."""
        return self.sentence.format(**vars(self))

    def values(self) -> dict[str, Any]:
        """The failure's own fields by name."""
        return {name: getattr(self, name) for name in getattr(self, "__match_args__", ())}

    def to_dict(self) -> dict[str, Any]:
        """Name, sentence, fields and chunks, ready for JSON but for the engine's own values."""
        return {
            "name": type(self).__name__,
            "check": self.check,
            "message": self.message_line,
            "fields": self.values(),
            "chunks": [_fields(chunk) for chunk in self.chunks],
        }

    def __str__(self) -> str:
        """The sentence, its check, and the last chunks as a table."""
        lines = [self.message_line]
        if self.check:
            lines.append(f"check: {self.check}")
        if self.chunks:
            lines += ["", *chunk_table(self.chunks)]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self.values().values()), vars(self)


def _fields(chunk: Chunk) -> dict[str, Any]:
    """A chunk's fields; what only encoders send is left out where it isn't there."""
    fields = asdict(chunk)
    if fields["encoder_result"] is None:
        del fields["encoder_result"]
    return fields
