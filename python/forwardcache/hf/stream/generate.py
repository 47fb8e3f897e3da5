"""Text that a model writes on from a prompt, as one row that decodes as the engine's rows do.

Nothing that the model's folder says about generation is read but its end tokens, so greedy is the
argmax of each step's logits.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from forwardcache.errors import ContextLengthError, InvalidInputError
from forwardcache.hf.stream.decode import Rows
from forwardcache.hf.stream.folder_settings import folder_settings
from forwardcache.hf.stream.sample import Sampler, SamplingOptions
from forwardcache.hf.stream.way import needed_way
from forwardcache.hf.text.encode import Encoder
from forwardcache.hf.text.item import blamed_on_item


@dataclass(frozen=True, slots=True)
class Writing:
    """What is to be written after a prompt.

    Attributes:
        max_new_tokens: Most tokens.
        temperature: 0 for greedy.
        top_p: Mass of the most likely tokens that are sampled from.
        seed: Seed of the sampling.
        use_generation_config: Whether the model's own generation settings decide how it is drawn.

    Raises:
        InvalidInputError: ``max_new_tokens`` is no integer of at least 1, ``temperature`` negative
            or not finite, ``top_p`` not above 0 and at most 1, or one of the two is given next to
            the model's own settings.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    use_generation_config: bool = False

    def __post_init__(self) -> None:
        most = self.max_new_tokens
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise InvalidInputError(
                f"max_new_tokens must be an integer of at least 1, got {most!r}"
            )
        SamplingOptions.of({"temperature": self.temperature, "top_p": self.top_p})
        if self.use_generation_config and (self.temperature, self.top_p) != (0.0, 1.0):
            raise InvalidInputError(
                "with use_generation_config the model's settings decide: leave temperature and "
                f"top_p out, got {self.temperature} and {self.top_p}"
            )

    def text(self, scorer: Any, prompt: Any, encoder: Encoder) -> str:
        """The text that follows ``prompt``, with the model in its view."""
        model, lm = scorer.model, scorer.causal_lm
        fed = encoder.encode("prompt", prompt).fed
        check_fits(len(fed), self.max_new_tokens, encoder.max_positions)
        options, least = SamplingOptions(self.temperature, self.top_p, self.seed), 0
        if self.use_generation_config:
            options, least = folder_settings(lm, len(fed), self.seed)
        ends = eos_ids(lm)
        ids = new_tokens(
            needed_way(scorer.runner.ways, model, lm).rows(model, lm),
            fed,
            max_new_tokens=self.max_new_tokens,
            sampler=Sampler(options, fed, late=ends, least=least),
            ends=ends,
            readable=scorer.runner.embedding_rows,
        )
        return continuation(scorer.tokenizer, fed, ids)


def new_tokens(
    rows: Rows,
    token_ids: Sequence[int],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    ends: Collection[int] = (),
    readable: int | None = None,
) -> list[int]:
    """The tokens that follow ``token_ids``, the one that ends the text among them.

    Args:
        rows: What decodes; empty.
        token_ids: The prompt.
        max_new_tokens: Most tokens.
        sampler: Draws them.
        ends: Tokens that end the text.
        readable: Number of ids that the model reads; None if that isn't known.

    Raises:
        InvalidInputError: a token was drawn that is not among the ``readable`` ids of the
            embedding, and others should follow it.
        NonFiniteError: the model's logits have a NaN or infinity.
    """
    ids: list[int] = []
    logits = rows.join([token_ids])
    while True:
        ids.append(sampler.draw(logits[0]))
        if len(ids) == max_new_tokens or ids[-1] in ends:
            return ids
        if readable is not None and ids[-1] >= readable:
            raise unreadable(ids[-1], readable)
        logits = rows.step(ids[-1:])


def eos_ids(causal_lm: Any) -> frozenset[int]:
    """The tokens that end the model's texts."""
    eos = getattr(getattr(causal_lm, "generation_config", None), "eos_token_id", None)
    return frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])


def unreadable(token: int, readable: int) -> InvalidInputError:
    """The error of a drawn token that nothing can follow: the head has it, the embedding not."""
    return InvalidInputError(
        f"the model drew token {token}, which it can't read: its embedding has ids from 0 to "
        f"{readable - 1}, fewer than its head"
    )


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
