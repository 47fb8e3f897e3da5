"""What a model says of one row of tokens that it reads alone, in one plain forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.matrix.verdict import ModelError, first_line


class Oracle:
    """Log-probabilities of a model, one row at a time; each row is run once.

    Args:
        model: Called as ``model(input_ids=...)``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: dict[tuple[int, ...], Tensor] = {}
        self._options: dict[str, bool] = {}

    def after(self, token_ids: Sequence[int]) -> Tensor:
        """Log-probabilities after each token: [tokens, vocab], float32.

        Raises:
            ModelError: the model can't be run on these tokens.
        """
        row = tuple(token_ids)
        if row not in self._known:
            self._known[row] = self._run(row)
        return self._known[row]

    def scored(self, token_ids: Sequence[int], begin: int = 1) -> Tensor:
        """Log-probabilities of the tokens from ``begin`` on, each after those before it.

        The last token isn't read, since nothing is asked after it: where a model's positions depend
        on the length, that counts.
        """
        after = self.after(token_ids[:-1])
        wanted = torch.tensor(list(token_ids[begin:]))
        return after[begin - 1 :].gather(1, wanted[:, None])[:, 0]

    def causal(self, token_ids: Sequence[int], places: Sequence[int]) -> Tensor:
        """Like ``scored``, at some places, with other tokens where those are that come later.

        The row stays as long, since some models compute positions from its length.
        """
        row = list(token_ids)
        size = int(self.after(row[:-1]).shape[1])
        values = []
        for place in places:
            rest = [2 + (token * 7 + place) % (size - 3) for token in row[place:-1]]
            values.append(self.after(row[:place] + rest)[place - 1, row[place]])
        return torch.stack(values)

    def greedy(self, token_ids: Sequence[int], steps: int, ends: frozenset[int]) -> list[int]:
        """The likeliest tokens, one after the other; fewer where two are equally likely."""
        row = list(token_ids)
        for _ in range(steps):
            best = self.after(row)[-1].topk(2)
            if float(best.values[0] - best.values[1]) < 1e-3:
                break
            row.append(int(best.indices[0]))
            if row[-1] in ends:
                break
        return row[len(token_ids) :]

    def _run(self, row: tuple[int, ...]) -> Tensor:
        ids = torch.tensor([row])
        try:
            with torch.no_grad():
                logits = self._model(input_ids=ids, **self._options).logits
        except Exception as error:
            # Some can only make the cache that nobody here asks for.
            if not self._options:
                self._options = {"use_cache": False}
                try:
                    return self._run(row)
                except ModelError:
                    self._options = {}
            raise ModelError(first_line(error)) from error
        if logits.ndim != 3 or logits.shape[:2] != ids.shape:
            raise ModelError(f"logits of shape {list(logits.shape)} for {len(row)} tokens")
        after: Tensor = logits[0].float().log_softmax(-1)
        return after


def distance(found: Any, expected: Any) -> float:
    """Largest difference of two lists of log-probabilities; infinite if they can't be compared."""
    # A copy, since values of the package are read-only.
    one, other = (torch.from_numpy(np.array(each, np.float64)) for each in (found, expected))
    if one.shape != other.shape:
        return float("inf")
    # What can't come is as impossible in both.
    gap = torch.where(one == other, torch.zeros_like(one), (one - other).abs())
    return float(torch.nan_to_num(gap, nan=float("inf")).max()) if len(gap) else 0.0
