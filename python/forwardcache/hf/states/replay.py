"""Whether a model's head, run on kept hidden states, gives the model's own logits.

What is kept is what the head reads: the input of ``get_output_embeddings()``. The head is run by
the model's own forward with a body that returns kept states, so soft caps, scales and biases are
the model's code. For that to be exact the body's output has to be what the head reads, bit for bit,
the head has to be called once, and nothing after it may read anything else. All of this is measured
in one forward of a short row, and its logits at all positions are compared with the replayed ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.batch.body import has_states
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.memory import is_out_of_memory
from forwardcache.hf.batch.probe import agrees_with
from forwardcache.hf.batch.ways import Ways


def measured_kind(runner: ForwardRunner, causal_lm: Any, ways: Ways) -> type[Any]:
    """The type of the body's output, in which the head takes kept states.

    The caller holds the model's lock and has switched the view.

    Args:
        runner: Runs the model's forward.
        causal_lm: The transformers model itself.
        ways: What the view is let do.

    Raises:
        UnsupportedModelError: kept states would not give the model's own logits; with the reason.
    """
    if not ways.causal:
        raise _refusal(runner, "a token's hidden state depends on what follows it")
    if ways.rows is None:
        raise _refusal(runner, "nothing was measured of it")
    row = ways.rows.own
    with runner._body_outputs() as outputs, _inputs_of(causal_lm.get_output_embeddings()) as read:
        logits = runner._plainly(row)[0]
    if not read:
        raise _refusal(runner, "its forward doesn't call its output embeddings")
    if len(outputs) != 1 or not has_states(outputs[0], (1, len(row))):
        raise _refusal(runner, "its body can't be told from its head")
    kind, states = type(outputs[0]), outputs[0].last_hidden_state
    if len(read) > 1 or not _is_same(read[0], states):
        raise _refusal(
            runner, "its head is no plain product: more code stands between its body and its head"
        )
    replayed = _replayed(runner, kind, states[0])
    if replayed is None or not agrees_with(runner, logits, replayed):
        raise _refusal(runner, "its logits depend on more than its final hidden states")
    found = runner.final_states([row])
    if found is None or not agrees_with(runner, states[0], found.rows[0]):
        raise _refusal(runner, "its body can't be run apart from its head")
    return kind


def _refusal(runner: ForwardRunner, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(f'keep="states" is not for {runner.name}: {reason}')


@contextmanager
def _inputs_of(head: nn.Module) -> Iterator[list[Any]]:
    """What the head is called on meanwhile."""
    read: list[Any] = []

    def note(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        read.append(next(iter((*inputs, *named.values())), None))

    handle = head.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield read
    finally:
        handle.remove()


def _is_same(read: Any, states: Tensor) -> bool:
    """Whether the head read the body's states as they are."""
    if not isinstance(read, Tensor) or read.shape != states.shape or read.dtype != states.dtype:
        return False
    return read.data_ptr() == states.data_ptr() or torch.equal(read, states)


def _replayed(runner: ForwardRunner, kind: type[Any], states: Tensor) -> Tensor | None:
    """Logits [positions, vocab] of states; None where the forward wants more of its body."""
    try:
        return runner.head_logits(kind, states)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return None
