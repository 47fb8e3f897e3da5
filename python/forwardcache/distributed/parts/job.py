"""The driver of a job of parts: hands out its chunks, keeps receipts, writes the manifest.

It never sees a row. What it keeps of a chunk is where its part is and what the summary needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from forwardcache.distributed.parts.folder import JOB, PARTS, SUCCESS, PartsFolder
from forwardcache.distributed.parts.manifest import ManifestChunk, write_manifest
from forwardcache.distributed.parts.naming import FORMAT
from forwardcache.distributed.parts.receipts import KeptReceipts, Receipt, ReceiptWriter
from forwardcache.distributed.parts.tally import Kept, Tally
from forwardcache.distributed.parts.work import PartsJob, packed_lines
from forwardcache.distributed.wire import answer, is_error
from forwardcache.errors import InvalidInputError
from forwardcache.operations import operation

if TYPE_CHECKING:
    from forwardcache.distributed.crew import Crew
    from forwardcache.jobs.job import Progress
    from forwardcache.jobs.prompt_source.plan import ChunkSpec, Plan
    from forwardcache.jobs.prompt_source.source import Block
    from forwardcache.jobs.skips import OnError


def write_job(folder: PartsFolder, facts: dict[str, Any]) -> None:
    """Write down what decides the rows, where that isn't done.

    Args:
        folder: Of the job, locked.
        facts: JSON values.
    """
    if JOB not in folder.top():
        folder.put(JOB, (json.dumps(_told(facts), indent=1) + "\n").encode("ascii"))


def check_job(folder: PartsFolder, facts: dict[str, Any]) -> None:
    """See that the folder is of no other job.

    Args:
        folder: Of the job, locked.
        facts: JSON values.

    Raises:
        InvalidInputError: naming what differs.
    """
    if JOB not in folder.top():
        return
    begun: Any = None
    with suppress(FileNotFoundError, ValueError):
        begun = json.loads(folder.read(JOB))
    if not isinstance(begun, dict):
        raise InvalidInputError(
            f"can't tell which job {folder.address} belongs to: {JOB} is broken; --force without "
            "--resume begins again"
        )
    told = _told(facts)
    differing = [name for name in {**begun, **told} if begun.get(name) != told.get(name)]
    if differing:
        raise InvalidInputError(
            f"{folder.address} belongs to another job (other {', '.join(differing)}); --force "
            "without --resume begins again"
        )


def _told(facts: dict[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, **facts}


def read_plan(crew: Crew[Any], plan: Plan, job: PartsJob) -> None:
    """Ask the workers how long the prompts are, and cut them into chunks.

    Raises:
        InvalidInputError: a prompt can't be scored and isn't to be skipped, or there is none.
    """
    shared = job.packed()

    def task_of(block: Block) -> bytes:
        return packed_lines(shared, None, block.raws)

    for _, result in crew.stream("line_lengths", plan.blocks(), task_of, ordered=True):
        plan.add(answer(result))
    plan.finish()


class PartsScoring:
    """A job of parts on its way.

    Args:
        crew: The workers.
        folder: Where parts go; locked, and of this job.
        plan: The chunks, all of them.
        job: What all tasks share.
        on_error: Whether a prompt that the model fails on is skipped.

    Attributes:
        plan: As given.
        job: As given.
        tally: What was found; whole once ``run`` is done.
        prompts_done: Prompts whose parts are there.
        tokens_done: Tokens of these.
    """

    def __init__(
        self,
        crew: Crew[Any],
        folder: PartsFolder,
        plan: Plan,
        job: PartsJob,
        *,
        on_error: OnError,
    ) -> None:
        self._crew, self._folder, self._on_error = crew, folder, on_error
        self.plan, self.job = plan, job
        self._shared = job.packed()
        self.tally = Tally(operation(job.op).figure)
        self.prompts_done = self.tokens_done = 0
        # By the chunk's name.
        self._kept: dict[bytes, Kept] = {}
        # By the name of a chunk that somebody has: its equals.
        self._equal: dict[bytes, list[ChunkSpec]] = {}

    def take_up(self) -> None:
        """Find the parts that earlier runs have left, however many workers they had."""
        receipts = KeptReceipts(self._folder)
        for chunk in self.plan.chunks() if receipts else ():
            name = self._name(chunk)
            if name not in self._kept and (line := receipts.get(name)) is not None:
                receipt = Receipt.of(line)
                # Of a run that was to skip what failed.
                if self._on_error == "skip" or not receipt.skipped:
                    self._kept[name] = Kept.of(receipt)
            if name in self._kept:
                self._settle(chunk)

    def run(self, progress: Progress) -> None:
        """Score what has no part yet.

        Args:
            progress: Whom to tell.

        Raises:
            InvalidInputError: a prompt failed and isn't to be skipped, or a part can't be written,
                or not where this process sees it.
            WorkerError: workers keep dying.
        """
        if self.prompts_done < self.plan.prompts:
            # A manifest of fewer prompts, or of others, is no longer that of this folder.
            self._folder.remove(SUCCESS)
        writer = ReceiptWriter(self._folder)
        try:
            tasks = self._tasks(progress)
            found = self._crew.stream("part", tasks, self._task_of)
            for number, (chunk, result) in enumerate(found):
                if is_error(result):
                    answer(result)
                receipt = Receipt.of(result)
                name = self._name(chunk)
                if number == 0:
                    # Better now than when all is done.
                    self._check_seen(receipt.file)
                self._check_skips(receipt, chunk)
                self._kept[name] = Kept.of(receipt)
                writer.add(result)
                self.tally.note_work(receipt)
                for each in [chunk, *self._equal.pop(name)]:
                    self._settle(each, progress)
        finally:
            writer.close()

    def finish(self, facts: dict[str, Any]) -> None:
        """Write the manifest, and remove what writers that died have left.

        Args:
            facts: What stands in it before the chunks.

        Raises:
            InvalidInputError: a part isn't where this process sees it.
        """
        there = self._folder.sizes(PARTS)
        for kept in self._kept.values():
            if kept.file not in there:
                self._check_seen(kept.file)
        write_manifest(self._folder, facts, self._chunks())
        self._folder.remove_passing()

    def sum_up(self) -> None:
        """Take all chunks into account, in the input's order: every one has its part."""
        for chunk in self.plan.chunks():
            self.tally.note_rows(self._kept[self._name(chunk)], chunk.numbers)

    def _tasks(self, progress: Progress) -> Iterator[ChunkSpec]:
        """The chunks that have no part, each content once."""
        asked: set[bytes] = set()
        for chunk in self.plan.chunks():
            name = self._name(chunk)
            if name in self._equal:
                self._equal[name].append(chunk)
            elif name in asked:
                self._settle(chunk, progress)
            elif name not in self._kept:
                asked.add(name)
                self._equal[name] = []
                yield chunk

    def _task_of(self, chunk: ChunkSpec) -> bytes:
        own = [self._name(chunk).hex(), chunk.lengths]
        return packed_lines(self._shared, own, self.plan.lines_of(chunk))

    def _check_seen(self, file: str) -> None:
        """Refuse a part that only the machine sees that wrote it.

        Raises:
            InvalidInputError: naming it.
        """
        # One by one, since a listing of a network's folder may be behind.
        if self._folder.size(file) is None:
            raise InvalidInputError(
                f"a worker has written {self._folder.shown(file)}, which isn't there as seen from "
                "here: --out has to be a folder that all workers and this process share"
            )

    def _check_skips(self, receipt: Receipt, chunk: ChunkSpec) -> None:
        """Refuse a part that lacks a prompt, where none is to be skipped.

        Raises:
            InvalidInputError: naming the first of them.
        """
        if receipt.skipped and self._on_error == "fail":
            position, _, reason = receipt.skipped[0]
            number = list(chunk.numbers)[position]
            raise InvalidInputError(f"{self.plan.source.place(number)}: {reason}")

    def _settle(self, chunk: ChunkSpec, progress: Progress | None = None) -> None:
        prompts, tokens, views = len(chunk.lengths), sum(chunk.lengths), len(self.job.views)
        self.prompts_done += prompts
        self.tokens_done += tokens
        if progress is not None:
            progress.settle(tokens * views, prompts * views)

    def _chunks(self) -> Iterator[ManifestChunk]:
        for chunk in self.plan.chunks():
            kept = self._kept[self._name(chunk)]
            yield ManifestChunk(chunk.runs, kept.file, kept.rows)

    def _name(self, chunk: ChunkSpec) -> bytes:
        return bytes.fromhex(self.plan.name_of(chunk, self.job.digest))
