"""``HFBackend.rounding_floor``: what arithmetic alone makes of a difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forwardcache.errors import InvalidInputError
from forwardcache.hf.comparing import Comparing, check_lists, raise_first
from forwardcache.hf.scoring.comparison import Comparison
from forwardcache.hf.scoring.rerun import Rerun
from forwardcache.hf.scoring_methods import Prompt
from forwardcache.hf.view import HFView, refuse_inside_view
from forwardcache.scoring import PositionDifferences

if TYPE_CHECKING:
    from forwardcache.statistics import Floor


class Rounding(Comparing):
    """What ``HFBackend`` tells of differences, and of how small ones can be seen."""

    def rounding_floor(
        self,
        texts: Sequence[Prompt],
        *,
        reference: HFView | str = "base",
        completions: Sequence[str | None] | None = None,
        reruns: int = 4,
        seed: int = 0,
        skip_first: int = 0,
        max_logit_bytes: int | None = None,
        windows: bool | None = None,
    ) -> Floor:
        """How far reruns of one view are apart whose numbers are rounded at random.

        In a rerun each element of every block's output, and of what the body hands to the head,
        moves by -1, 0 or +1 unit in the last place of the model's dtype with probability 1/12,
        10/12, 1/12. The first rerun is held against the second, the third against the fourth, as
        ``compare`` holds a view against its reference, in the same batches, with the same figures
        and memory. Nothing is cached, stored or traced.

        What is drawn for a token follows from the seed and from the tokens of its text up to it,
        not from the texts beside it.

        Args:
            texts: As in ``compare``; 64 are enough.
            reference: The view, as in ``compare``.
            completions: As there; only positions that count are in the floor.
            reruns: An even number.
            seed: From 0 on; another one gives other reruns.
            skip_first: Of each text, how many of its first positions are left out.
            max_logit_bytes: As in ``compare``.
            windows: As in ``compare``.

        Returns:
            The floor, over the positions of all pairs.

        Raises:
            InvalidInputError: an option is out of range, as in ``compare`` or below 0; there is no
                position that counts; or the reruns differ and their mean is 0.
            UnsupportedModelError: as in ``compare``, or the model's blocks can't be told.
            ViewParameterError: no view is called so.
            AdapterError: the view needs an adapter and the model has none.
            ForwardCacheError: a text can't be compared; ``index`` says which.
        """
        # Whoever asks for no floor needn't have scipy imported.
        from forwardcache.statistics import Floor, Positions

        refuse_inside_view(self._scorer)
        check_lists(texts, (), completions)
        _check_numbers(reruns, seed, skip_first)
        [spec] = self._specs_of([reference])
        most = self._most_bytes(max_logit_bytes)
        self._scorer.check(spec)
        encoded = self._encoded(list(texts), completions, windows)
        raise_first([encoded])
        pairs = []
        for number in range(0, reruns, 2):
            one, other = Rerun(spec, seed, number), Rerun(spec, seed, number + 1)
            values = self._compared(encoded, Comparison(self._scorer, one, [other], most))
            raise_first(values)
            good = [each for each in values[0] if isinstance(each, PositionDifferences)]
            pairs.append(Positions.of(good, skip_first=skip_first))
        return Floor.of(pairs)


def _check_numbers(reruns: int, seed: int, skip_first: int) -> None:
    if reruns < 2 or reruns % 2:
        raise InvalidInputError(f"reruns are held against each other in pairs, got {reruns!r}")
    for name, value in {"seed": seed, "skip_first": skip_first}.items():
        if value < 0:
            raise InvalidInputError(f"{name} must be 0 or more, got {value!r}")
