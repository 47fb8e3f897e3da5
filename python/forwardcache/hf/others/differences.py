"""What two models that were let go differ by: both heads on kept states, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forwardcache.errors import ForwardCacheError, ModelMemoryError
from forwardcache.hf.batch.differences import position_differences, rows_at_once
from forwardcache.hf.batch.kernels import top_dists
from forwardcache.hf.batch.memory import is_out_of_memory
from forwardcache.hf.batch.plan import in_slabs
from forwardcache.hf.comparing import value_of
from forwardcache.hf.others.head import HeadAlone
from forwardcache.hf.others.states import States
from forwardcache.scoring import PositionDifferences, TokenDist

_SLAB_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one model in one view.

    Attributes:
        head: Its head.
        states: The states of the texts.
    """

    head: HeadAlone
    states: States

    def logits(self, states: Tensor, vocab: int) -> Tensor:
        """Logits [n, vocab] of some states; the head is loaded.

        Args:
            states: [n, width].
            vocab: Ids over which models are compared.
        """
        kind = self.states.kind
        assert kind is not None
        spec = self.head.view(self.states.spec)
        return self.head.logits(spec, kind, states.to(self.head.device))[:, :vocab]


@dataclass(frozen=True, slots=True)
class Pair:
    """A view and what it is held against.

    Attributes:
        reference: What the view is held against.
        view: The view.
        vocab: Ids over which they are compared, from 0; both are distributions over these alone.
        max_logit_bytes: Memory for logits at once, with what is computed of them.
    """

    reference: Kept
    view: Kept
    vocab: int
    max_logit_bytes: int

    def differences(self) -> list[PositionDifferences | ForwardCacheError]:
        """How far the view is from the reference in each text, or a text's error in either."""
        ours, theirs = self.reference.states, self.view.states
        rows = [
            one if isinstance(one, ForwardCacheError) else other
            for one, other in zip(ours.rows, theirs.rows, strict=True)
        ]
        tables: dict[int, Tensor] = {}
        with self.reference.head.loaded(), self.view.head.loaded():
            for slab in self._slabs(rows):
                tables.update(zip(slab, self._tables(slab), strict=True))
        return [
            # A text counts where the reference says so.
            value_of(mine, each if isinstance(each, ForwardCacheError) else tables.get(at))
            if not isinstance(mine, ForwardCacheError)
            else mine
            for at, (mine, each) in enumerate(zip(ours.rows, rows, strict=True))
        ]

    def top_tokens(
        self, at: Sequence[tuple[int, int]], *, k: int
    ) -> tuple[list[TokenDist], list[TokenDist]]:
        """The most likely tokens of reference and view at some positions.

        Args:
            at: For each position its text and how many of its tokens stand before it, 1 or more.
            k: Tokens wanted.
        """
        found = []
        for one in (self.reference, self.view):
            with one.head.loaded():
                rows = [one.states.of(text)[place - 1] for text, place in at]
                logits = one.logits(torch.stack(rows), self.vocab) if rows else torch.empty(0, 1)
                found.append(top_dists(logits, k) if rows else [])
        return found[0], found[1]

    def _slabs(self, rows: Sequence[object]) -> Iterator[list[int]]:
        """Texts with positions, in groups whose states are few, or which are one."""
        states = self.reference.states
        texts = [
            at
            for at, row in enumerate(rows)
            if not isinstance(row, ForwardCacheError) and states.numbers[at]
        ]
        return in_slabs(texts, states.bytes_of, _SLAB_BYTES)

    def _tables(self, slab: Sequence[int]) -> Sequence[Tensor]:
        """Of each text of a slab what ``position_differences`` gives."""
        ours, theirs = (
            torch.cat([one.states.of(at) for at in slab]) for one in (self.reference, self.view)
        )
        tokens = [self.reference.states.token_ids(at)[1:] for at in slab]
        targets = torch.tensor([token for each in tokens for token in each])
        most = rows_at_once(self.vocab, self.max_logit_bytes, self._kind_of_device) // 2
        parts, begin, size = [], 0, max(1, most)
        while begin < len(targets):
            span = slice(begin, begin + size)
            part = self._of_chunk(ours[span], theirs[span], targets[span])
            if part is None and size == 1:
                raise ModelMemoryError("the logits of one position do not fit into memory")
            if part is None:
                size = max(1, size // 2)
                continue
            parts.append(part)
            begin += size
        return torch.split(torch.cat(parts), list(map(len, tokens)))

    @property
    def _kind_of_device(self) -> str:
        return "cpu" if self.reference.head.device.type == "cpu" else "cuda"

    def _of_chunk(self, ours: Tensor, theirs: Tensor, targets: Tensor) -> Tensor | None:
        """The figures of some positions; None where memory is too small for them."""
        try:
            logits = self.reference.logits(ours, self.vocab)
            others = self.view.logits(theirs, self.vocab).to(logits.device)
            following = targets.to(logits.device)
            with torch.inference_mode():
                return position_differences(
                    logits, others, following, max_bytes=self.max_logit_bytes
                ).cpu()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        return None
