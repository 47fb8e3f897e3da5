"""``HFBackend.compare``: how far views are from a reference at every position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from forwardcache.errors import ForwardCacheError, InvalidInputError
from forwardcache.hf.batch.differences import FIELDS
from forwardcache.hf.batch.plan import check_limits
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.scoring.comparison import Comparison
from forwardcache.hf.scoring.scorer import OnError, Scorer
from forwardcache.hf.scoring_methods import Prompt
from forwardcache.hf.spec import ViewSpec, named
from forwardcache.hf.text.encode import Form
from forwardcache.hf.view import HFView, check_views, refuse_inside_view
from forwardcache.scoring import PositionDifferences


class Comparing:
    """What ``HFBackend`` tells of the differences between its views."""

    _scorer: Scorer

    def compare(
        self,
        texts: Sequence[Prompt],
        views: Sequence[HFView | str],
        *,
        reference: HFView | str = "base",
        completions: Sequence[str | None] | None = None,
        max_logit_bytes: int | None = None,
        windows: bool | None = None,
        on_error: OnError = "raise",
    ) -> dict[str, list[Any]]:
        """How far each view is from a reference at every position, over the whole vocabulary.

        Each view runs once over the texts and so does the reference, however many views there are.
        Nothing is cached, stored or traced. Memory is that of the final hidden states of some of
        the texts (256 MB at most, unless one text needs more) and of ``max_logit_bytes``; only a
        model whose head can't be run alone needs all logits of a text at once.

        Args:
            texts: Plain texts; with a completion each is a prompt as in ``logprob_of``.
            views: Views of this backend that are not entered (``as_finetuned()``), their ids, or
                their names on the command line (``"ft"``, ``"scaled:0.5"``, ``"null:7"``,
                ``"null:7:matched"``).
            reference: What they are held against, as one of them.
            completions: A completion for each text, or None: only the positions that predict its
                tokens ``count`` then. The tokens are those of ``logprob_of``.
            max_logit_bytes: Memory for logits at once, with what is computed of them; None for the
                backend's.
            windows: Whether a text longer than the context is compared in windows, each token once,
                as in ``rolling_logprob``. None for the backend's option.
            on_error: "raise": once all others are done, the error of the first text that can't be
                compared is raised, with ``index``, and ``results`` of the first view. "return":
                errors stand at their positions.

        Returns:
            For each view's id a ``PositionDifferences`` a text, or its error with "return".

        Raises:
            InvalidInputError: a view belongs to another backend, two have the same id, there are
                not as many completions as texts, or an option is out of range.
            ViewParameterError: no view is called so.
            AdapterError: a view needs an adapter and the model has none.
            UnsupportedModelError: a view can't be exact, isn't causal, or the model keeps changing.
            ContextLengthError: a text is longer than the model's context, without ``windows``.
            ForwardCacheError: a text can't be compared, as in ``rolling_logprob_batch`` and
                ``logprob_of_batch``.
        """
        refuse_inside_view(self._scorer)
        if on_error not in ("raise", "return"):
            raise InvalidInputError(f'on_error must be "raise" or "return", got {on_error!r}')
        check_lists(texts, views, completions)
        specs = self._specs_of(views)
        [against] = self._specs_of([reference])
        most = self._most_bytes(max_logit_bytes)
        for spec in (against, *specs):
            self._scorer.check(spec)
        encoded = self._encoded(list(texts), completions, windows)
        results = self._compared(encoded, Comparison(self._scorer, against, specs, most))
        found = dict(zip([spec.view_id for spec in specs], results, strict=True))
        if on_error == "raise":
            raise_first(results)
        return found

    def _specs_of(self, views: Sequence[HFView | str]) -> list[ViewSpec]:
        scorer = self._scorer
        names = () if scorer.adapters is None else scorer.adapters.names
        made = [
            HFView(scorer, scorer.resolved(named(view, names))) if isinstance(view, str) else view
            for view in views
        ]
        if strange := [view for view in made if not isinstance(view, HFView)]:
            kind = type(strange[0]).__name__
            raise InvalidInputError(f"a view is an HFView or the name of one, got {kind}")
        check_views(made, self._scorer)
        return [view.spec for view in made]

    def _most_bytes(self, max_logit_bytes: int | None) -> int:
        """Memory for logits at once; that of the backend for None."""
        limits = self._scorer.runner.limits
        most = limits.max_logit_bytes if max_logit_bytes is None else max_logit_bytes
        check_limits(limits.token_budget, limits.max_padding, most)
        return most

    def _encoded(
        self, texts: list[Any], completions: Sequence[str | None] | None, windows: bool | None
    ) -> list[Encoded | ForwardCacheError]:
        """The tokens of each text, with its completion where it has one."""
        any_length = self._scorer.options.windows if windows is None else windows
        form: Form = "windows" if any_length else "text"
        return each_in_its_form(
            texts,
            [None] * len(texts) if completions is None else completions,
            partial(self._scorer.encoded, form),
            partial(self._scorer.encoded, "pair", any_length=any_length),
        )

    def _compared(
        self, encoded: Sequence[Encoded | ForwardCacheError], comparison: Comparison
    ) -> list[list[PositionDifferences | ForwardCacheError]]:
        """For each view the value of each text, or its error."""
        good = [each for each in encoded if isinstance(each, Encoded)]
        # All positions are compared, whichever count.
        rows = [Encoded(each.token_ids, 1) for each in good if len(each.token_ids) > 1]
        results = []
        for values in comparison.figures(rows):
            following = iter(values)
            results.append(
                [
                    each
                    if isinstance(each, ForwardCacheError)
                    else value_of(each, next(following) if len(each.token_ids) > 1 else None)
                    for each in encoded
                ]
            )
        return results


def each_in_its_form(
    texts: Sequence[Any],
    completions: Sequence[str | None],
    of_texts: Callable[[list[Any]], Iterable[Encoded | ForwardCacheError]],
    of_pairs: Callable[[list[Any]], Iterable[Encoded | ForwardCacheError]],
) -> list[Encoded | ForwardCacheError]:
    """The tokens of each text, as a prompt where it has a completion.

    Args:
        texts: The texts.
        completions: A completion for each, or None.
        of_texts: Gives the tokens of texts.
        of_pairs: Those of prompts with their completions.
    """
    whole = [at for at, end in enumerate(completions) if end is None]
    pairs = [at for at, end in enumerate(completions) if end is not None]
    found = dict(zip(whole, of_texts([texts[at] for at in whole]), strict=True))
    items = [(texts[at], completions[at]) for at in pairs]
    found.update(zip(pairs, of_pairs(items), strict=True))
    return [found[at] for at in range(len(texts))]


def check_lists(
    texts: Sequence[Any],
    views: Sequence[Any],
    completions: Sequence[Any] | None,
) -> None:
    """Refuses what is no list, and completions that are not as many as the texts.

    Raises:
        InvalidInputError: either is so.
    """
    for name, each in {"texts": texts, "views": views, "completions": completions}.items():
        if isinstance(each, str | bytes):
            raise InvalidInputError(f"{name}: expected a list, got one {type(each).__name__}")
    if completions is not None and len(completions) != len(texts):
        raise InvalidInputError(
            f"{len(texts)} texts need as many completions, got {len(completions)}"
        )


def value_of(encoded: Encoded, figures: Any) -> PositionDifferences | ForwardCacheError:
    """The differences of one text.

    Args:
        encoded: Its tokens, and which of them count.
        figures: A tensor [n-1, 8] of what ``position_differences`` gives; None for a text without a
            position; or the text's error.
    """
    if isinstance(figures, ForwardCacheError):
        return figures
    table = np.empty((0, len(FIELDS))) if figures is None else figures.numpy()
    columns = dict(zip(FIELDS, table.T, strict=True))
    counts = np.arange(1, len(table) + 1) >= encoded.first_scored
    ids = np.array(encoded.token_ids, dtype=np.int64)
    return PositionDifferences(token_ids=ids, counts=counts, **columns)


def raise_first(results: Sequence[list[Any]]) -> None:
    """Raises the first error among values, with its ``index`` and the list as ``results``."""
    for values in results:
        for index, value in enumerate(values):
            if isinstance(value, ForwardCacheError):
                value.index, value.results = index, values
                raise value
