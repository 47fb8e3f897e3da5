"""A worker whose model is a digest of the prompt: it loads in no time, all else is as it is.

For kills by the hundred: the lines, the scoring loop, the parts, the receipts are those of any job.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from forwardcache.distributed.worker import Worker
from forwardcache.instrumentation import BackendStats
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.session import instruments
from forwardcache.scoring import TokenDist

VOCABULARY = 16


def session_of(options: ModelOptions) -> Any:
    """What ``jobs.session.load`` gives, without a model."""
    instrumentation, recorder = instruments(options)
    return SimpleNamespace(
        backend=_Backend(recorder),
        recorder=recorder,
        instrumentation=instrumentation,
        vocab_size=VOCABULARY,
        arithmetic=lambda: {"dtype": "float32"},
        template_digest=lambda: None,
        close=instrumentation.close,
    )


class StandIn(Worker):
    """A worker without a model."""

    def _load(self) -> dict[str, Any]:
        self._session = session_of(self._options)
        return {
            "pid": os.getpid(),
            "vocab_size": VOCABULARY,
            "template": None,
            "arithmetic": self._session.arithmetic(),
        }


class _Backend:
    nonfinite_results = 0

    def __init__(self, recorder: Any) -> None:
        self._recorder = recorder
        self.stats = BackendStats()
        self.seen: set[tuple[str, str]] = set()

    def rendered(self, items: Sequence[str], *, op: str) -> Sequence[str]:
        return items

    def token_lengths(self, items: Sequence[str], *, op: str) -> list[int]:
        return [len(each) // 4 + 1 for each in items]

    @contextmanager
    def as_base(self) -> Iterator[_View]:
        yield _View(self, self._recorder, "base")

    @contextmanager
    def as_finetuned(self) -> Iterator[_View]:
        yield _View(self, self._recorder, "ft")


class _View:
    def __init__(self, backend: _Backend, recorder: Any, kind: str) -> None:
        self._backend, self._recorder = backend, recorder
        self.spec = SimpleNamespace(kind=kind)

    def model_state(self) -> bytes:
        return b""

    def values(self, op: Any, items: Sequence[str], *, on_error: str) -> list[TokenDist]:
        named = [(self.spec.kind, each) for each in items]
        self._recorder.note_computed([each[1] for each in named if each not in self._backend.seen])
        self._backend.seen.update(named)
        return [_distribution(*each) for each in named]


def _distribution(kind: str, text: str) -> TokenDist:
    """All of a small vocabulary, decided by the bytes of a digest."""
    digest = hashlib.shake_256(f"{kind} {text}".encode()).digest(2 * VOCABULARY)
    logits = np.frombuffer(digest, "<u2").astype(np.float64) / 8192
    logprobs = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
    order = np.argsort(-logprobs, kind="stable")
    return TokenDist(order.astype(np.int64), logprobs[order], VOCABULARY, None)
