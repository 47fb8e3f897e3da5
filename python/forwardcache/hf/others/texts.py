"""The tokens of texts as the reference's tokenizer reads them, and whether another one agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

from forwardcache.errors import ContextLengthError, ForwardCacheError, InvalidInputError
from forwardcache.hf.backend import HFBackend
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.comparing import each_in_its_form
from forwardcache.hf.scoring.windows import windows_of
from forwardcache.hf.text.encode import Encoder, EncodingOptions

Rows = list[Encoded | ForwardCacheError]
"""The tokens of each text, or why it has none."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts with their tokens.

    Attributes:
        texts: As in ``HFBackend.compare``; where there is a chat template it has written them.
        completions: A completion for each, or None.
        rows: Their tokens by the reference's tokenizer.
        cut: For each text its windows; one, unless it is longer than the reference's context.
        options: How text becomes tokens.
        tokenizer: The reference's.
    """

    texts: Sequence[Any]
    completions: Sequence[str | None]
    rows: Rows
    cut: Sequence[Sequence[Encoded]]
    options: EncodingOptions
    tokenizer: Any

    @classmethod
    def of(
        cls,
        backend: HFBackend,
        texts: Sequence[Any],
        completions: Sequence[str | None] | None,
        windows: bool | None,
    ) -> Texts:
        """Texts as a model reads them.

        Args:
            backend: The reference's.
            texts: As in ``HFBackend.compare``.
            completions: As there.
            windows: As there.
        """
        scorer = backend._scorer
        rows = backend._encoded(list(texts), completions, windows)
        ends = [None] * len(texts) if completions is None else list(completions)
        most = max_positions(scorer.causal_lm)
        cut = [_windows(each, most) for each in rows]
        return cls(texts, ends, rows, cut, scorer.options, scorer.tokenizer)

    def read_by(self, backend: HFBackend) -> Rows:
        """The same tokens, unless another model's tokenizer or context says otherwise.

        Args:
            backend: The other model's.
        """
        scorer = backend._scorer
        runner = scorer.runner
        encoder = Encoder(
            scorer.tokenizer,
            self.options,
            None,
            runner.vocab_size,
            embedding_rows=runner.embedding_rows,
        )
        theirs = self._read(encoder)
        most = max_positions(scorer.causal_lm)
        return [
            ours if isinstance(ours, ForwardCacheError) else _checked(ours, own, cut, most)
            for ours, own, cut in zip(self.rows, theirs, self.cut, strict=True)
        ]

    def _read(self, encoder: Encoder) -> Rows:
        of_texts = partial(encoder.encode_each, "windows")
        of_pairs = partial(encoder.encode_each, "pair")
        return each_in_its_form(self.texts, self.completions, of_texts, of_pairs)


def _windows(row: Encoded | ForwardCacheError, most: int | None) -> list[Encoded]:
    """What is run of a text: all of its positions are compared, whichever count."""
    if isinstance(row, ForwardCacheError) or len(row.token_ids) < 2:
        return []
    return windows_of(Encoded(row.token_ids, 1), most)


def _checked(
    ours: Encoded,
    theirs: Encoded | ForwardCacheError,
    cut: Sequence[Encoded],
    most: int | None,
) -> Encoded | ForwardCacheError:
    if isinstance(theirs, ForwardCacheError):
        return theirs
    if ours.token_ids != theirs.token_ids:
        return _other_tokens(ours.token_ids, theirs.token_ids)
    longest = max((len(window.fed) for window in cut), default=0)
    if most is not None and longest > most:
        return ContextLengthError(
            f"{longest} tokens are more than the model's context length of {most}"
        )
    return ours


def _other_tokens(ours: Sequence[int], theirs: Sequence[int]) -> InvalidInputError:
    pairs = enumerate(zip_longest(ours, theirs), start=1)
    at, (here, there) = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
    return InvalidInputError(
        f"its tokenizer reads the text as other tokens than the reference's: token {at} is "
        f"{'none' if there is None else there}, not {'none' if here is None else here}"
    )
