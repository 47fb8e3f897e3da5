"""Runs rows of tokens through the model and asks its LM head only for the positions needed.

Rows of several lengths run end to end where the model allows it (``pack``). Others are padded on
the right. In a causal model a position never sees what comes after it, so padding there changes
nothing before it and neither a mask nor position ids are needed; on the left it would shift every
position (3 nats of error without a mask). Which of these a model may do is measured before its
first value (``probe``); what it can't, it does in the next plainer way: with a mask, with rows of
one length only, one row at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.batch.body import FinalStates, has_states, joined, returning
from forwardcache.hf.batch.kernels import TokenKernel, token_logprobs
from forwardcache.hf.batch.limits import Limits
from forwardcache.hf.batch.pack import can_pack, filled, packed, rows_apart
from forwardcache.hf.batch.plan import Batch, plan_batches
from forwardcache.hf.batch.prefix import SharedPrefix, can_share_prefixes
from forwardcache.hf.batch.prefix_group import PrefixGroup, plan_prefix_groups
from forwardcache.hf.batch.probe import refuse_by_name, shares_prefixes
from forwardcache.hf.batch.reach import switch
from forwardcache.hf.batch.row import Encoded, Row
from forwardcache.hf.batch.row_factors import RowFactors
from forwardcache.hf.batch.spoilt import values_without_spoilt, without_spoilt
from forwardcache.hf.batch.ways import Ways

_FLOAT32_BYTES = 4


class ForwardRunner:
    """A model's forward, in batches. The caller holds the model's lock and has switched the view.

    Args:
        model: What is called: the model, or the PEFT model around it.
        causal_lm: The transformers model itself.
        limits: How much goes through it at once.

    Attributes:
        model: What is called at present.
        limits: As given.
        ways: What the view that the model is in is let do; at first no more than one row at a time.
        row_factors: What each row of the forwards multiplies the adapter by; None for no such.

    Raises:
        UnsupportedModelError: the model is an encoder-decoder, has no weights in memory, or is of a
            family that can't be exact.
    """

    def __init__(self, model: nn.Module, causal_lm: Any, limits: Limits) -> None:
        _check_model(causal_lm)
        self.model = model
        self._lm = causal_lm
        self.limits = limits
        self.ways = Ways()
        self.row_factors: RowFactors | None = None
        keeps = "logits_to_keep" in inspect.signature(causal_lm.forward).parameters
        self._modes: list[_Mode] = ["rows", "shared", "full"] if keeps else ["full"]

    @property
    def name(self) -> str:
        """The model's class."""
        return type(self._lm).__name__

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        dtype: torch.dtype = self._lm.dtype
        return dtype

    @property
    def depends_on_shape(self) -> bool:
        """Whether a row's values depend on its batch's length, where no short row may show it."""
        is_recurrent = bool(getattr(self._lm, "_is_stateful", False))
        return is_recurrent or switch(self._lm.config) is not None

    def may_pack(self) -> bool:
        """Whether the model is built so that rows can run end to end."""
        return can_pack(self._lm)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the model is; whatever is no CPU is like CUDA."""
        return "cpu" if self._device.type == "cpu" else "cuda"

    @property
    def vocab_size(self) -> int:
        """Number of logits of a position."""
        head = self._lm.get_output_embeddings()
        # A packed head has a method of that name.
        shape = getattr(getattr(head, "weight", None), "shape", None)
        if shape is not None:
            return int(shape[0])
        size = getattr(head, "out_features", None)
        return int(self._lm.config.get_text_config().vocab_size if size is None else size)

    @property
    def embedding_rows(self) -> int | None:
        """Number of ids that the model reads; None if its embedding doesn't tell.

        It need not be that of the logits: either side may have been resized alone.
        """
        embedding = self._lm.get_input_embeddings()
        weight = getattr(embedding, "weight", None)
        # Quantised weights are packed, so that their shape is another.
        if weight is None or weight.ndim != 2 or not weight.is_floating_point():
            rows = getattr(embedding, "num_embeddings", None)
            return rows if isinstance(rows, int) else None
        return int(weight.shape[0])

    @property
    def readable_ids(self) -> int:
        """Number of ids that the model reads; of its logits where its embedding doesn't tell."""
        rows = self.embedding_rows
        return self.vocab_size if rows is None else rows

    @property
    def most_logit_rows(self) -> int:
        """Most positions whose logits may be there at once, at least 1."""
        return max(1, self.limits.max_logit_bytes // (self.vocab_size * _FLOAT32_BYTES))

    def plan(
        self, lengths: Sequence[int], *, last_only: bool, token_budget: int | None = None
    ) -> list[Batch]:
        """Batches for rows of these lengths.

        Args:
            lengths: Tokens of each row.
            last_only: Whether each needs one position's logits only.
            token_budget: Most positions in a batch; None for that of the limits.
        """
        return plan_batches(
            lengths,
            token_budget=self.limits.token_budget if token_budget is None else token_budget,
            max_padding=self.limits.max_padding if self.ways.batches == "padded" else 0.0,
            max_rows=self._most_rows(last_only),
            packed=self.ways.batches == "packed",
        )

    def prefix_groups(
        self, items: Sequence[Encoded], *, forward_cost: int, last_only: bool
    ) -> list[PrefixGroup]:
        """Items whose common prefix is cheaper to compute once, if this model can do that.

        Args:
            items: What is to be scored.
            forward_cost: What a forward costs in addition to its tokens, in tokens.
            last_only: Whether each needs the last position's logits only.
        """
        if self.ways.prefixes is False:
            return []
        rows = [item.fed for item in items]
        # The logits at the end of the prefix are kept, so its last token may be the first needed.
        limits = [len(row) for row in rows] if last_only else [item.first_scored for item in items]
        # After a prefix the LM head isn't called in chunks: rows that need that share none.
        most = self.most_logit_rows
        limits = [
            limit if len(item.scored) <= most else 0
            for limit, item in zip(limits, items, strict=True)
        ]
        groups = plan_prefix_groups(rows, limits, forward_cost=forward_cost)
        return groups if groups and self.shares_exactly() else []

    def behind(self, prefix: Row) -> SharedPrefix:
        """Runs ``prefix``; what it gives scores rows that begin with it."""
        return SharedPrefix(self.model, self._lm, prefix)

    def last_logits(self, rows: Sequence[Row]) -> Tensor:
        """Logits after the last token of each row: [rows, vocab]."""
        try:
            logits = self._logits_at(rows, [[len(row) - 1] for row in rows])
        except _LookedAcrossError:
            return torch.cat([self.last_logits([row]) for row in rows])
        return without_spoilt(logits, len(rows), lambda row: self.last_logits([rows[row]]))

    def all_logits(self, row: Row) -> Tensor:
        """Logits after every token of one row, in the plainest way: [tokens, vocab]."""
        return self._plainly(row)[0]

    def plain_logits(self, row: Row, positions: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Logits [n, vocab] after n positions of a row, plainly and from the head alone.

        Returns:
            What the model gives, and what its head gives for the hidden states of those positions;
            None where it can't be called on these.
        """
        with self._body_outputs() as outputs:
            logits = self._plainly(row)[0]
        at = torch.tensor(positions, device=logits.device)
        if len(outputs) != 1 or not has_states(outputs[0], (1, len(row))):
            return logits[at], None
        try:
            head = self._head(type(outputs[0]), outputs[0].last_hidden_state[0, at])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, IndexError):
            # The model wants more of its body than hidden states.
            return logits[at], None
        return logits[at], head

    def logits_in(
        self, ways: Ways, rows: Sequence[Row], positions: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Logits after the given positions of each row, [n, vocab] each, run in these ways."""
        own, self.ways = self.ways, ways
        try:
            flat = self._logits_at(rows, positions)
        finally:
            self.ways = own
        return list(torch.split(flat, list(map(len, positions))))

    def scored_logprobs(
        self, items: Sequence[Encoded], kernel: TokenKernel = token_logprobs
    ) -> list[Tensor]:
        """What ``kernel`` gives for each item's scored tokens: [scored, ...] each, on the CPU."""
        try:
            flat = self._scored(items, kernel)
        except _LookedAcrossError:
            flat = torch.cat([self._scored([item], kernel) for item in items])
        values = list(torch.split(flat.cpu(), [len(item.scored) for item in items]))
        return values_without_spoilt(values, lambda at: self.scored_logprobs([items[at]], kernel))

    def final_states(self, rows: Sequence[Row]) -> FinalStates | None:
        """What the body gives the head for each row; None where the head can't be run alone."""
        try:
            output = self._body_output(rows) if self._head_runs_alone else None
        except _LookedAcrossError:
            return joined([self.final_states([row]) for row in rows])
        if output is None:
            self.ways.runs_head_alone = False
            return None
        flat = output.last_hidden_state.flatten(0, 1)
        pairs = zip(self._begins(rows), rows, strict=True)
        states = [flat[begin : begin + len(row)] for begin, row in pairs]

        def alone(at: int) -> list[Tensor]:
            found = self.final_states([rows[at]])
            return [states[at]] if found is None else found.rows

        return FinalStates(type(output), values_without_spoilt(states, alone))

    def head_logits(self, kind: type[Any], states: Tensor) -> Tensor:
        """Logits [n, vocab] of final states [n, width] that a body gave in a ``kind`` of output."""
        return self._head(kind, states)

    def shares_exactly(self) -> bool:
        """Whether prefixes change no value, which is measured before the first one."""
        if self.ways.prefixes is None:
            rows = self.ways.rows
            can = can_share_prefixes(self._lm)
            behind = partial(SharedPrefix, self.model, self._lm)
            self.ways.prefixes = can and rows is not None and shares_prefixes(self, rows, behind)
        return self.ways.prefixes

    @property
    def _device(self) -> torch.device:
        weight = getattr(self._lm.get_input_embeddings(), "weight", None)
        return torch.device(self._lm.device if weight is None else weight.device)

    def _are_packed(self, rows: Sequence[Row]) -> bool:
        # Equal rows have no padding in a batch either.
        return self.ways.batches == "packed" and len(set(map(len, rows))) > 1

    def _scored(self, items: Sequence[Encoded], kernel: TokenKernel) -> Tensor:
        if self._fit_at_once(items):
            return self._scored_at_once(items, kernel)
        if self._head_runs_alone:
            return self._scored_in_chunks(items, kernel)
        return torch.cat([self._scored_at_once([item], kernel) for item in items])

    def _fit_at_once(self, items: Sequence[Encoded]) -> bool:
        """Whether one forward may give all logits: within the bound, and few that nobody reads."""
        scored = [len(item.scored) for item in items]
        if self._are_packed([item.fed for item in items]):
            return sum(scored) <= self.most_logit_rows
        positions = max(scored) * len(scored)
        # The other way asks for one position a row more, and for none twice.
        is_even = positions <= 1.25 * (sum(scored) + len(scored))
        return positions <= self.most_logit_rows and (is_even or not self._head_runs_alone)

    def _scored_at_once(self, items: Sequence[Encoded], kernel: TokenKernel) -> Tensor:
        positions = [range(item.first_scored - 1, len(item.fed)) for item in items]
        logits = self._logits_at([item.fed for item in items], positions)
        return kernel(logits, self._targets(items))

    def _scored_in_chunks(self, items: Sequence[Encoded], kernel: TokenKernel) -> Tensor:
        """The model's body once, then its head on as many positions at a time as memory allows."""
        rows = [item.fed for item in items]
        output = self._body_output(rows)
        if output is None:
            self.ways.runs_head_alone = False
            return torch.cat([self._scored_at_once([item], kernel) for item in items])
        hidden = output.last_hidden_state.flatten(0, 1)
        spans = [
            slice(begin + item.first_scored - 1, begin + len(item.fed))
            for begin, item in zip(self._begins(rows), items, strict=True)
        ]
        flat = torch.cat([hidden[span] for span in spans])
        size = self.most_logit_rows
        chunks = zip(torch.split(flat, size), torch.split(self._targets(items), size), strict=True)
        return torch.cat(
            [kernel(self._head(type(output), chunk), targets) for chunk, targets in chunks]
        )

    def _targets(self, items: Sequence[Encoded]) -> Tensor:
        return torch.tensor([token for item in items for token in item.scored], device=self._device)

    @property
    def _head_runs_alone(self) -> bool:
        return self.ways.runs_head_alone and self._modes[0] != "full"

    def _most_rows(self, last_only: bool) -> int | None:
        if self.ways.batches == "single":
            return 1
        return self.most_logit_rows if last_only else None

    @property
    def body(self) -> Any:
        """What gives the head its hidden states; None where it can't be told from the head."""
        return getattr(self._lm, self._lm.base_model_prefix, None)

    @contextmanager
    def _body_outputs(self) -> Iterator[list[Any]]:
        """What the body gives the head meanwhile, one a forward."""
        outputs: list[Any] = []
        if not isinstance(self.body, nn.Module):
            yield outputs
            return
        handle = self.body.register_forward_hook(lambda _m, _inputs, each: outputs.append(each))
        try:
            yield outputs
        finally:
            handle.remove()

    def _body_output(self, rows: Sequence[Row]) -> Any:
        """What the body gives the head: hidden states of all that the model reads, else None."""
        with self._body_outputs() as outputs:
            # A number instead of a tensor makes some bodies compute no other position (Gemma 4).
            self._call(rows, logits_to_keep=torch.tensor([0], device=self._device))
        if len(outputs) != 1 or not has_states(outputs[0], self._shape(rows)):
            return None
        return outputs[0]

    def _plainly(self, row: Row) -> Tensor:
        """Logits [1, tokens, vocab] of one row, with nothing but its tokens."""
        tokens = torch.tensor([row], device=self._device)
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        if logits.shape[:-1] != tokens.shape:
            raise self._without_logits()
        return logits

    def _without_logits(self) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.name} gives no logits of shape [rows, positions, vocab]"
        )

    def _head(self, kind: type[Any], hidden: Tensor) -> Tensor:
        """Logits [n, vocab] of hidden states [n, width], through the model's own forward.

        What a model does after its head (soft caps, scales) happens only there.
        """
        with returning(self.body, kind(last_hidden_state=hidden.unsqueeze(0))):
            placeholder = torch.zeros(1, len(hidden), dtype=torch.long, device=self._device)
            logits: Tensor = self.model(input_ids=placeholder, use_cache=False).logits
        return logits[0]

    def _shape(self, rows: Sequence[Row]) -> tuple[int, int]:
        """Shape of what the model reads for these rows."""
        if self._are_packed(rows):
            return (1, sum(map(len, filled(rows, self._lm.dtype))))
        return (len(rows), max(map(len, rows)))

    def _begins(self, rows: Sequence[Row]) -> list[int]:
        """Where each row begins in what the model reads, one sequence after the other."""
        if self._are_packed(rows):
            return list(accumulate(map(len, rows[:-1]), initial=0))
        longest = max(map(len, rows))
        return [row * longest for row in range(len(rows))]

    def _logits_at(self, rows: Sequence[Row], positions: Sequence[Sequence[int]]) -> Tensor:
        """Logits after the given positions of each row, flat: [positions, vocab]."""
        if self._are_packed(rows):
            begins = self._begins(rows)
            flat = [begin + at for begin, own in zip(begins, positions, strict=True) for at in own]
            return self._logits(rows, torch.tensor([flat], device=self._device))[0]
        width = max(map(len, positions))
        # Rows that need fewer repeat their last one; it is not read.
        wanted = [[own[min(step, len(own) - 1)] for step in range(width)] for own in positions]
        logits = self._logits(rows, torch.tensor(wanted, device=self._device))
        return torch.cat([logits[row, : len(own)] for row, own in enumerate(positions)])

    def _logits(self, rows: Sequence[Row], positions: Tensor) -> Tensor:
        """Logits at ``positions`` int64[n, p] of what the model reads for ``rows``: [n, p, vocab].

        n is the number of rows, or 1 if they are packed.
        """
        while True:
            mode = self._modes[0] if self.ways.takes_positions else "full"
            logits = _KEEP[mode](self, rows, positions)
            if logits is not None:
                return logits
            if len(self._modes) == 1:
                raise self._without_logits()
            # An unknown or unsupported argument shows only in the shape of what comes back.
            self._modes.pop(0)

    def _keep_rows(self, rows: Sequence[Row], positions: Tensor) -> Tensor | None:
        # Every version of transformers takes the positions of all rows, only later ones each row's
        # own; those before compute a multiple of what was asked and are known by its shape.
        are_same = bool((positions == positions[0]).all())
        asked = positions[0] if are_same else positions
        logits: Tensor = self._call(rows, logits_to_keep=asked).logits
        return logits if logits.shape[:-1] == positions.shape else None

    def _keep_shared(self, rows: Sequence[Row], positions: Tensor) -> Tensor | None:
        shared, indices = torch.unique(positions, return_inverse=True)
        logits = self._call(rows, logits_to_keep=shared).logits
        return _at(logits, indices, (len(positions), len(shared)))

    def _keep_full(self, rows: Sequence[Row], positions: Tensor) -> Tensor | None:
        logits = self._call(rows).logits
        return _at(logits, positions, self._shape(rows))

    def _call(self, rows: Sequence[Row], **kept: Any) -> Any:
        if self.row_factors is None:
            return self._fed(rows, **kept)
        with self.row_factors.laid_out(rows, self._shape(rows), kept.get("logits_to_keep")):
            return self._fed(rows, **kept)

    def _fed(self, rows: Sequence[Row], **kept: Any) -> Any:
        if self._are_packed(rows):
            return self._call_packed(rows, **kept)
        longest = max(map(len, rows))
        # A row is filled with its own last token: any other might be one that spoils the batch.
        padded = torch.tensor(
            [[*row, *row[-1:] * (longest - len(row))] for row in rows], device=self._device
        )
        if self.ways.is_masked and len(rows) > 1:
            lengths = torch.tensor([len(row) for row in rows], device=self._device)
            positions = torch.arange(longest, device=self._device)
            kept["attention_mask"] = (positions < lengths[:, None]).long()
        return self.model(input_ids=padded, use_cache=False, **kept)

    def _call_packed(self, rows: Sequence[Row], **kept: Any) -> Any:
        # What fills them up comes after them, where nobody reads it.
        rows = filled(rows, self._lm.dtype)
        with rows_apart(self._lm, list(map(len, rows))) as apart:
            output = self.model(**packed(rows), use_cache=False, **kept)
        if apart.attended != self._lm.config.get_text_config().num_hidden_layers:
            self.ways.batches = "single"
            raise _LookedAcrossError
        return output


class _LookedAcrossError(Exception):
    """Some layer did not ask for attention where rows are kept apart; each then runs alone."""


_Mode = Literal["rows", "shared", "full"]
_KEEP: dict[_Mode, Callable[[ForwardRunner, Sequence[Row], Tensor], Tensor | None]] = {
    "rows": ForwardRunner._keep_rows,
    "shared": ForwardRunner._keep_shared,
    "full": ForwardRunner._keep_full,
}


def _at(logits: Tensor, positions: Tensor, expected: tuple[int, int]) -> Tensor | None:
    """Rows of ``logits`` [rows, n, vocab] at ``positions`` [rows, p]; None for another shape."""
    if logits.shape[:-1] != expected:
        return None
    return logits.take_along_dim(positions.unsqueeze(-1), 1)


def _check_model(causal_lm: Any) -> None:
    name = type(causal_lm).__name__
    if getattr(causal_lm.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder; next-token views need a decoder-only causal model"
        )
    if causal_lm.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{name} has no language-model head")
    if any(parameter.is_meta for parameter in causal_lm.parameters()):
        raise UnsupportedModelError(f"{name} has weights that are not in memory (device meta)")
    refuse_by_name(causal_lm)
