"""What a stream must be: every broken rule, the weightiest first.

The order of the ``yield``s is the precedence: a run reports the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral

from forwardcache.conformance.chunk import Chunk, Usage
from forwardcache.conformance.failures import (
    CancellationIgnored,
    ChunkAfterTerminal,
    CompletionTokensMismatch,
    ConformanceFailure,
    EndedTooEarly,
    MaxTokensExceeded,
    NoChunksYielded,
    NoTerminalChunk,
    StreamYieldedError,
)
from forwardcache.conformance.stream import Reception

__all__ = ["cancelled_ending", "limit_rules", "stream_rules", "usage_contradiction"]


def stream_rules(reception: Reception) -> Iterator[ConformanceFailure]:
    """The rules of a complete stream that ``reception`` breaks."""
    for failure in _stream_rules(reception.chunks):
        yield failure.having(reception.chunks).due_to(_cause(failure, reception))


def cancelled_ending(reception: Reception) -> Iterator[ConformanceFailure]:
    """What is wrong with the last item of a stopped stream; nothing else is judged."""
    for failure in _last_item(reception.chunks):
        yield failure.having(reception.chunks).due_to(_cause(failure, reception))


def limit_rules(reception: Reception, asked: int | None) -> Iterator[ConformanceFailure]:
    """What is wrong with the number of tokens sent.

    Args:
        reception: A whole stream.
        asked: The request's ``max_tokens``; None where no limit was asked for.
    """
    chunks = reception.chunks
    sent = _tokens_sent(chunks)
    if asked is None:
        return
    if sent > asked:
        yield MaxTokensExceeded(asked, sent).having(chunks)
    elif sent < asked and any(chunk.finish_reason == "length" for chunk in chunks):
        yield EndedTooEarly(asked, sent).having(chunks)


def usage_contradiction(chunks: Sequence[Chunk], prompt_tokens: int | None = None) -> str | None:
    """What contradicts what in the usage of the terminal chunk; None where all agrees.

    Args:
        chunks: A whole stream.
        prompt_tokens: Ids of the request; None where they are not judged.
    """
    usage = chunks[-1].usage if chunks else None
    if usage is None:
        return None
    sent = _tokens_sent(chunks)
    if usage.completion_tokens != sent:
        return f"completion_tokens = {usage.completion_tokens}, but {sent} tokens were sent"
    return _wrong_prompt(usage, prompt_tokens) or _wrong_total(usage)


def _wrong_prompt(usage: Usage, prompt_tokens: int | None) -> str | None:
    given = usage.prompt_tokens
    if prompt_tokens is None or given is None or given == prompt_tokens:
        return None
    return f"prompt_tokens = {given!r}, but the request has {prompt_tokens} token ids"


def _wrong_total(usage: Usage) -> str | None:
    prompt, completion, total = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    if prompt is None or total is None:
        return None
    if not (isinstance(prompt, Integral) and isinstance(total, Integral)):
        return f"prompt_tokens = {prompt!r} and total_tokens = {total!r} are no whole numbers"
    if total == prompt + completion:
        return None
    return f"total_tokens = {total}, but {prompt} + {completion} = {prompt + completion}"


def _stream_rules(chunks: Sequence[Chunk]) -> Iterator[ConformanceFailure]:
    if not chunks:
        yield NoChunksYielded()
        return
    yield from _errors(chunks)
    terminals = [position for position, chunk in enumerate(chunks) if chunk.terminal]
    if not terminals:
        yield NoTerminalChunk()
        return
    if terminals[0] != len(chunks) - 1:
        yield ChunkAfterTerminal()
    yield from _mismatch(chunks, chunks[terminals[-1]])


def _errors(chunks: Sequence[Chunk]) -> Iterator[ConformanceFailure]:
    errors = [chunk.error for chunk in chunks if chunk.error is not None]
    if errors:
        yield StreamYieldedError(errors[0])


def _mismatch(chunks: Sequence[Chunk], terminal: Chunk) -> Iterator[ConformanceFailure]:
    if terminal.usage is None:
        return
    sent, reported = _tokens_sent(chunks), terminal.usage.completion_tokens
    if reported != sent:
        yield CompletionTokensMismatch(sent, reported)


def _last_item(chunks: Sequence[Chunk]) -> Iterator[ConformanceFailure]:
    if not chunks:
        yield NoChunksYielded()
    elif chunks[-1].error is not None:
        yield StreamYieldedError(chunks[-1].error)
    elif not chunks[-1].cancelled:
        yield CancellationIgnored()


def _tokens_sent(chunks: Sequence[Chunk]) -> int:
    return sum(len(chunk.token_ids) for chunk in chunks)


def _cause(failure: ConformanceFailure, reception: Reception) -> BaseException | None:
    return reception.raised if isinstance(failure, StreamYieldedError) else None
