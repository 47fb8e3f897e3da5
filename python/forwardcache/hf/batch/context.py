"""How many tokens a model has positions for.

A configuration has one number under several names, and for learned positions it is often that of
the table's rows, of which some families leave out the first ones: what a model reads is asked of
the model itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

# Each is the context's length of some family; a configuration may have several.
_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_target_positions")

# Of these a layer's work is made, which comes after positions.
_WORK = {"mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "convolution"}
_PROBE_TOKENS = 3

_measured: WeakKeyDictionary[nn.Module, tuple[Any, int | None]] = WeakKeyDictionary()
_registry = threading.Lock()


def max_positions(causal_lm: Any) -> int | None:
    """The model's context length in tokens; None if it has no fixed one.

    Where positions are learned, the model's forward is begun once, with three tokens, and ended
    before its first layer; whoever calls holds the model.

    Args:
        causal_lm: The transformers model itself.
    """
    config = causal_lm.config.get_text_config()
    numbers = [getattr(config, name, None) for name in _NAMES]
    said = [each for each in numbers if type(each) is int and each > 0]
    tables = list(_tables(causal_lm))
    known = tuple(said), tuple((id(each), each.num_embeddings) for each in tables)
    with _registry:
        measured = _measured.get(causal_lm)
    if measured is None or measured[0] != known:
        measured = known, min((*said, *_held(causal_lm, tables)), default=None)
        with _registry:
            _measured[causal_lm] = measured
    return measured[1]


def _tables(causal_lm: Any) -> Iterator[nn.Embedding]:
    """What may hold learned positions: every embedding of the text's model but that of tokens."""
    tokens = causal_lm.get_input_embeddings()
    # Those of images that a model may also read have positions of their own.
    for module in (causal_lm.get_decoder() or causal_lm).modules():
        if isinstance(module, nn.Embedding) and module is not tokens:
            yield module


def _held(causal_lm: Any, tables: list[nn.Embedding]) -> Iterator[int]:
    """Tokens that each of the tables has rows for, where it is one of positions."""
    if not tables:
        return
    reading = _Reading({each.weight.data_ptr(): each.num_embeddings for each in tables})
    # Any id but those of padding, which some families give no position of its own.
    padding = {each.padding_idx for each in tables}
    padding.add(getattr(causal_lm.config.get_text_config(), "pad_token_id", None))
    token = next(token for token in count() if token not in padding)
    ids = torch.full((1, _PROBE_TOKENS), token, device=causal_lm.device)
    # Whatever it raises, it raises again where a prompt is scored, and says why there.
    with suppress(Exception, _Ended), torch.inference_mode(), reading:
        causal_lm(input_ids=ids, use_cache=False)
    yield from reading.held


class _Ended(BaseException):
    """The forward is ended; no ``Exception``, so that no model's code takes it for an error."""


class _Reading(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees which rows of some tables are read, and ends the forward where its work begins.

    Args:
        rows: Each table's number of rows, by the place of its weight in memory.
    """

    def __init__(self, rows: dict[int, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows = rows
        self.held: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if self.held and name in _WORK:
            raise _Ended
        table = args[0] if args and isinstance(args[0], torch.Tensor) else None
        rows = None if table is None else self._rows.get(table.data_ptr())
        if rows is not None:
            read = _rows_read(name, args)
            if len(read) == _PROBE_TOKENS and read == list(range(read[0], read[0] + len(read))):
                self.held.append(rows - read[0])
        return func(*args, **(kwargs or {}))


def _rows_read(name: str, args: Any) -> list[int]:
    """The rows of its first argument that an operation takes."""
    if name == "slice" and len(args) >= 4 and args[1] == 0:
        return list(range(args[2], min(args[3], args[2] + _PROBE_TOKENS + 1)))
    indices = {"embedding": 1, "index_select": 2, "index": 1}.get(name)
    if indices is None:
        return []
    found = args[indices][0] if name == "index" else args[indices]
    return list(found.flatten().tolist())


__all__ = ["max_positions"]
