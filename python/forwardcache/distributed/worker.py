"""What one worker does: loads the model once, then scores the parts that it is given.

Plain Python: an actor of Ray is made of it in ``team``. Every method takes and gives bytes.
"""

from __future__ import annotations

import json
import os
from typing import Any

from forwardcache.distributed.counters import gained
from forwardcache.distributed.parts.receipts import Receipt
from forwardcache.distributed.parts.work import lengths_of_lines, score_part
from forwardcache.distributed.wire import Part, options_of, reply
from forwardcache.errors import ForwardCacheError
from forwardcache.jobs.differences import update_norms
from forwardcache.jobs.job import Job, Scoring
from forwardcache.jobs.prompts import PromptSet
from forwardcache.jobs.recall.heard import Heard
from forwardcache.jobs.session import Session, load
from forwardcache.jobs.views import View
from forwardcache.operations import operation


class Worker:
    """A model, and the parts that go through it.

    Args:
        options: As ``packed_options`` gives them.
    """

    def __init__(self, options: bytes) -> None:
        self._options = options_of(options)
        self._session: Session | None = None
        self._heard = Heard()

    def load(self) -> bytes:
        """Loads the model; tells the process, its vocabulary and dtype, and what was warned of."""
        return reply(self._load)

    def lengths(self, items: bytes) -> bytes:
        """Tokens of each item, or why it can't be scored: a list of numbers and words.

        Args:
            items: ``[op, items]``.
        """
        return reply(lambda: self._lengths(*json.loads(items)))

    def rows(self, part: bytes) -> bytes:
        """The rows of a part, the tokens run for it, and what it added to the counters."""
        return reply(lambda: self._rows(Part.of(part)))

    def line_lengths(self, task: bytes) -> bytes:
        """Tokens of the prompt in each line, or why it can't be scored.

        Args:
            task: As of ``parts.work.lengths_of_lines``.
        """
        return reply(lambda: lengths_of_lines(self._loaded(), task))

    def part(self, task: bytes) -> bytes:
        """Scores a chunk and writes its part; a receipt as of ``parts.receipts``, or an error.

        Args:
            task: As of ``parts.work.score_part``.
        """
        return reply(lambda: score_part(self._loaded(), task), pack=Receipt.packed)

    def norms(self, views: bytes) -> bytes:
        """By view: the norm of what it adds to the weights, as of ``update_norms``.

        Args:
            views: A list of views, each as its fields.
        """
        asked = [View(**view) for view in json.loads(views)]
        return reply(lambda: update_norms(self._loaded().backend, asked))

    def close(self) -> bytes:
        """Closes the trace; tells how many events it lacks, and what was warned of since."""
        return reply(self._close)

    def _load(self) -> dict[str, Any]:
        self._heard.listen()
        self._session = load(self._options)
        arithmetic = self._session.arithmetic()
        return {
            "pid": os.getpid(),
            "vocab_size": self._session.vocab_size,
            "dtype": arithmetic["dtype"],
            "template": self._session.template_digest(),
            "arithmetic": arithmetic,
            "warnings": self._heard.taken(),
        }

    def _lengths(self, op: str, items: list[Any]) -> list[int | str]:
        # A pair is a list in JSON; so is a prompt of messages, and stays one.
        asked = list(map(tuple, items)) if operation(op).form == "pair" else items
        found = self._loaded().backend.token_lengths(asked, op=op)
        return [str(each) if isinstance(each, ForwardCacheError) else each for each in found]

    def _rows(self, part: Part) -> dict[str, Any]:
        session = self._loaded()
        source = PromptSet("the part", part.prompts, sha256="")
        # What becomes of a prompt that fails is for the job to say, not for a part.
        job = Job(source, part.lengths, part.op, part.views, part.top_k, part.asked_k, "skip")
        scoring = Scoring(session.backend, session.recorder, job)
        before, bad = session.backend.stats.to_dict(), session.backend.nonfinite_results
        rows, skipped = scoring.rows_of(range(len(part.prompts)))
        return {
            "rows": rows,
            "skipped": [one.as_json() for one in skipped],
            "tokens_run": scoring.totals.tokens_run,
            "stats": gained(before, session.backend.stats.to_dict()),
            "nonfinite": session.backend.nonfinite_results - bad,
        }

    def _close(self) -> dict[str, Any]:
        session = self._loaded()
        missing = session.instrumentation.trace.close()
        session.close()
        self._heard.listen_no_more()
        return {"missing_events": int(missing), "warnings": self._heard.taken()}

    def _loaded(self) -> Session:
        if self._session is None:
            raise RuntimeError("the worker has no model yet")
        return self._session
