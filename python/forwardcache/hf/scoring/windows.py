"""Texts longer than the model's context, scored in windows.

Each token counts once. The first window is as long as the context; each one after it begins with
the last token that was scored, and the last one ends with the text and reaches back as far as the
context does. These are the windows of lm-evaluation-harness (one token of context).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from forwardcache.errors import ForwardCacheError
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.scoring.batched_forwards import BatchedForwards
from forwardcache.hf.scoring.task import Task
from forwardcache.operation import Operation


def windows_of(encoded: Encoded, positions: int | None) -> list[Encoded]:
    """``encoded`` in windows that read at most ``positions`` tokens each; one where it fits."""
    scored = len(encoded.scored)
    if positions is None or len(encoded.fed) <= positions:
        return [encoded]
    # The first scored token is the second of the text.
    windows, done = [], 0
    while done < scored:
        end = min(done + positions, scored)
        begin = max(0, end - positions)
        windows.append(Encoded(encoded.token_ids[begin : end + 1], done + 1 - begin))
        done = end
    return windows


def run_in_windows(
    runs: BatchedForwards,
    op: Operation,
    tasks: Sequence[Task],
    positions: int | None,
    report: Callable[[int], None],
) -> tuple[list[Any], list[Task]]:
    """The values of texts of any length.

    Args:
        runs: Runs batches.
        op: One that runs in windows.
        tasks: The texts; each has two tokens or more.
        positions: The model's context length in tokens; None if it has no fixed one.
        report: Told the number of tokens that are newly done.

    Returns:
        A value a text, or the error of a window that didn't fit into memory; and the
        windows that were run.
    """
    cut = [windows_of(task.encoded, positions) for task in tasks]
    pieces = [
        Task(task.item, window, task.key)
        for task, windows in zip(tasks, cut, strict=True)
        for window in windows
    ]
    scored = iter(runs.values(op, pieces, report))
    values = [
        _joined(op, task.encoded, list(islice(scored, len(windows))))
        for task, windows in zip(tasks, cut, strict=True)
    ]
    return values, pieces


def _joined(op: Operation, encoded: Encoded, found: Sequence[Any]) -> Any:
    errors = [each for each in found if isinstance(each, ForwardCacheError)]
    return errors[0] if errors else op.joined(encoded, found)
