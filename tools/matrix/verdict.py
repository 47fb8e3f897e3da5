"""What was seen of one model or adapter, as it goes from process to process and onto the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from forwardcache.errors import UnsupportedModelError

Outcome = Literal["ok", "none", "refused", "WRONG", "crash"]
"""``none``: there is nothing to check, which the reason explains."""

# The later decides about several together.
_RANK: tuple[Outcome, ...] = ("none", "ok", "refused", "crash", "WRONG")

LARGEST_ERROR = 1e-3
"""Nats a token beyond which a value is wrong. Ten times what the package promises: some of these
models turn a rounding into more than that, and what is really wrong is off by far more."""


@dataclass
class Finding:
    """How some checks went.

    Attributes:
        outcome: The worst of them.
        error: Largest error of those that aren't wrong, in nats a token.
        reason: What was refused or went wrong, and why; empty if nothing.
    """

    outcome: Outcome = "none"
    error: float = 0.0
    reason: str = ""

    def add(self, outcome: Outcome, reason: str = "", error: float = 0.0) -> None:
        """Takes one more check in."""
        if outcome in ("ok", "none"):
            self.error = max(self.error, error)
        worse = _RANK.index(outcome) - _RANK.index(self.outcome)
        if worse > 0 or (worse == 0 and not self.reason):
            self.outcome = outcome
            self.reason = "" if outcome == "ok" else reason

    def check(self, what: str, errors: Callable[[], float]) -> None:
        """Runs a check.

        Args:
            what: What is checked, for the reason.
            errors: Gives the largest error, in nats a token; raises what the package raises.
        """
        try:
            error = errors()
        except UnsupportedModelError as refused:
            self.add("refused", str(refused))
        except ModelError as failed:
            self.add("WRONG", f"{what}: a value, though the model itself fails: {failed}")
        except Exception as failed:
            self.add("crash", f"{what}: {type(failed).__name__}: {first_line(failed)}")
        else:
            if error <= LARGEST_ERROR:
                self.add("ok", error=error)
            else:
                self.add("WRONG", f"{what}: {error:.2g} nats a token off")


class ModelError(Exception):
    """The model itself can't be run as asked."""


@dataclass
class Verdict:
    """What was seen of one case.

    Attributes:
        name: The case's.
        group: Its group.
        parts: Findings by what was checked.
        how: How rows are run together, as the backend says.
        notes: What the backend adds to that.
        not_built: Why there is no such model; empty if there is one.
        hears: How far a token four back moves the logits, in nats: what the checks can see.
        seconds: How long it took.
    """

    name: str
    group: str
    parts: dict[str, Finding] = field(default_factory=dict)
    how: str = ""
    notes: list[str] = field(default_factory=list)
    not_built: str = ""
    hears: float = 0.0
    seconds: float = 0.0

    def as_data(self) -> dict[str, Any]:
        """What ``of_data`` reads, for JSON."""
        return asdict(self)

    @classmethod
    def of_data(cls, data: dict[str, Any]) -> Verdict:
        """The verdict whose ``as_data`` that was."""
        parts = {name: Finding(**finding) for name, finding in data.pop("parts").items()}
        return cls(**data, parts=parts)

    @property
    def failures(self) -> dict[str, Finding]:
        """Parts that are wrong or crash."""
        return {
            name: finding
            for name, finding in self.parts.items()
            if finding.outcome in ("WRONG", "crash")
        }


def first_line(error: BaseException) -> str:
    """The first line of an error's text, shortened."""
    text = str(error).strip().partition("\n")[0]
    return text if len(text) <= 200 else f"{text[:200]}…"
