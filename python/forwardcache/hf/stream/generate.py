"""Text that a model writes on from a prompt: transformers' own ``generate``, with a seed."""

from __future__ import annotations

import math
import reprlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from forwardcache.errors import ContextLengthError, InvalidInputError
from forwardcache.hf.text.item import blamed_on_item

_DRAWING = threading.Lock()
"""Held while a model draws from torch's generator: transformers takes none but the process's own,
and another model's draws, or its seed, would come between."""


def check_options(max_new_tokens: int, temperature: float, top_p: float) -> None:
    """Refuses what can't be sampled with.

    Raises:
        InvalidInputError: ``max_new_tokens`` is no integer of at least 1, ``temperature`` negative
            or not finite, or ``top_p`` not above 0 and at most 1.
    """
    is_integer = isinstance(max_new_tokens, int) and not isinstance(max_new_tokens, bool)
    if not is_integer or max_new_tokens < 1:
        raise InvalidInputError(
            f"max_new_tokens must be an integer of at least 1, got {max_new_tokens!r}"
        )
    if not (math.isfinite(temperature) and temperature >= 0.0):
        raise InvalidInputError(f"temperature must be finite and not negative, got {temperature}")
    if not 0.0 < top_p <= 1.0:
        raise InvalidInputError(f"top_p must be above 0 and at most 1, got {top_p}")


def new_tokens(
    causal_lm: Any,
    token_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    readable: int | None = None,
) -> list[int]:
    """The tokens that follow ``token_ids``: greedy at temperature 0, else sampled.

    The process's own random state is left as it was. One model samples at a time, whatever the
    threads; others that draw from torch's generator meanwhile change what is sampled.

    Raises:
        InvalidInputError: a token was drawn that is not among the ``readable`` ids of the
            embedding, and others should follow it.
    """
    device = causal_lm.get_input_embeddings().weight.device
    prompt = torch.tensor([list(token_ids)], device=device)
    sampling: dict[str, Any] = {"do_sample": temperature > 0.0}
    if temperature > 0.0:
        # top_k 0 turns off the limit of 50 that transformers would put on every sample.
        sampling |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
    with _drawing(seed, device) if temperature > 0.0 else nullcontext():
        written = causal_lm.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_new_tokens,
            pad_token_id=_pad_id(causal_lm),
            stopping_criteria=StoppingCriteriaList([_Unreadable(readable)]),
            **sampling,
        )
    ids: list[int] = written[0, prompt.shape[1] :].tolist()
    ended = len(ids) == max_new_tokens or ids[-1] in eos_ids(causal_lm)
    if readable is not None and ids[-1] >= readable and not ended:
        raise unreadable(ids[-1], readable)
    return ids


def eos_ids(causal_lm: Any) -> frozenset[int]:
    """The tokens that end the model's texts."""
    eos = causal_lm.generation_config.eos_token_id
    return frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])


class _Unreadable(StoppingCriteria):
    """Ends a text at a token that the model can't read."""

    def __init__(self, readable: int | None) -> None:
        self._readable = readable

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        last = input_ids[:, -1]
        most = self._readable
        return last >= most if most is not None else torch.zeros_like(last, dtype=torch.bool)


def unreadable(token: int, readable: int) -> InvalidInputError:
    """The error of a drawn token that nothing can follow: the head has it, the embedding not."""
    return InvalidInputError(
        f"the model drew token {token}, which it can't read: its embedding has ids from 0 to "
        f"{readable - 1}, fewer than its head"
    )


@contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generator, seeded, for this thread's model alone; afterwards as it was."""
    cuda = [device] if device.type == "cuda" else []
    with _DRAWING, torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def continuation(tokenizer: Any, prompt_ids: Sequence[int], new_ids: Sequence[int]) -> str:
    """The text that ``new_ids`` add to that of ``prompt_ids``, without special tokens.

    New tokens decoded alone lose the space before their first word with SentencePiece. Where the
    tokenizer writes the prompt's end in another way once something follows, what both texts begin
    with is cut.

    Raises:
        InvalidInputError: the tokenizer can't write the tokens as text.
    """
    before, both = (_text(tokenizer, ids) for ids in (prompt_ids, [*prompt_ids, *new_ids]))
    pairs = enumerate(zip(before, both, strict=False))
    differs = (index for index, (left, right) in pairs if left != right)
    return both[next(differs, len(before)) :]


def _text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    with blamed_on_item(f"the tokenizer can't write the tokens {reprlib.repr(list(token_ids))}"):
        return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))


def check_fits(prompt_tokens: int, max_new_tokens: int, max_positions: int | None) -> None:
    """Refuses to write beyond the model's last position.

    Raises:
        ContextLengthError: prompt and new tokens together are more than the context length.
    """
    if max_positions is not None and prompt_tokens + max_new_tokens > max_positions:
        raise ContextLengthError(
            f"{prompt_tokens} prompt tokens and {max_new_tokens} new ones are more than the "
            f"model's context length of {max_positions}"
        )


def _pad_id(causal_lm: Any) -> int:
    # Only there to keep transformers quiet: one row has no padding.
    pad = causal_lm.generation_config.pad_token_id
    return 0 if pad is None else int(pad)
