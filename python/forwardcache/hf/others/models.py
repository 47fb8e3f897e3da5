"""``compare_models``: other models against a reference, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from forwardcache.errors import ForwardCacheError, InvalidInputError
from forwardcache.hf.backend import HFBackend
from forwardcache.hf.comparing import check_lists, raise_first
from forwardcache.hf.others.differences import Kept, Pair
from forwardcache.hf.others.head import HeadAlone
from forwardcache.hf.others.states import States, states_of
from forwardcache.hf.others.texts import Texts
from forwardcache.hf.others.vocabulary import check_tokens, common_rows
from forwardcache.hf.scoring.scorer import OnError
from forwardcache.hf.scoring_methods import Prompt
from forwardcache.hf.view import HFView
from forwardcache.scoring import PositionDifferences

Differences = list[PositionDifferences | ForwardCacheError]


def compare_models(
    backend: HFBackend,
    others: Mapping[str, str | PathLike[str]],
    texts: Sequence[Prompt],
    *,
    reference: HFView | str = "base",
    completions: Sequence[str | None] | None = None,
    max_logit_bytes: int | None = None,
    windows: bool | None = None,
    on_error: OnError = "raise",
    **loading: Any,
) -> dict[str, list[Any]]:
    """How far other models are from a view of this one, at every position of texts.

    As ``HFBackend.compare``, with models of one vocabulary in the place of views: merged, fully
    fine-tuned, quantised. They are loaded one after another, and each is let go before the next, so
    that memory is that of one model, of some final hidden states (the others are in a temporary
    file) and of ``max_logit_bytes``. All read the reference's token ids. Nothing is cached.

    Where models have different numbers of padding rows behind the vocabulary, both distributions
    are over the rows that both have, and sum to 1 there.

    Args:
        backend: The reference's. **It is let go**: nothing can be asked of it afterwards, and the
            model in it is of no use any more.
        others: By the name that each is to have: its folder.
        texts: As in ``HFBackend.compare``.
        reference: The view of ``backend`` that the others are held against.
        completions: As there.
        max_logit_bytes: As there.
        windows: As there; windows are as long as the reference's context.
        on_error: As there. A text that another model's tokenizer reads as other tokens, or that its
            context is too short for, is an error of that text for that model.
        **loading: Options of ``HFBackend.load`` for the other models, such as ``dtype``.

    Returns:
        For each name a ``PositionDifferences`` a text, or its error with "return".

    Raises:
        InvalidInputError: as in ``HFBackend.compare``, or a model has another vocabulary.
        ModelLoadError: another model can't be loaded.
        UnsupportedModelError: one isn't causal, or its head can't be run on hidden states alone.
        ForwardCacheError: a text can't be compared.
    """
    if on_error not in ("raise", "return"):
        raise InvalidInputError(f'on_error must be "raise" or "return", got {on_error!r}')
    check_lists(texts, (), completions)
    ours = Reference.of(backend, texts, completions, windows=windows, view=reference)
    most = backend._most_bytes(max_logit_bytes)
    del backend
    found: dict[str, list[Any]] = {}
    try:
        ours.model.let_go()
        for name, folder in others.items():
            with_weights = HFBackend.load(folder, **loading)
            other = ours.read_by(with_weights)
            del with_weights
            try:
                other.let_go()
                found[name] = list(ours.pair(other, most).differences())
            finally:
                other.close()
    finally:
        ours.model.close()
    if on_error == "raise":
        raise_first(list(found.values()))
    return found


@dataclass(slots=True)
class Model:
    """A model whose texts were run, in one view or several.

    Attributes:
        head: Its head.
        states: For each view what was kept.
    """

    head: HeadAlone
    states: list[States]

    def kept(self, number: int = 0) -> Kept:
        """One of its views.

        Args:
            number: Which, in the order in which they were run.
        """
        return Kept(self.head, self.states[number])

    def let_go(self) -> None:
        """Gives the body's memory back.

        Raises:
            UnsupportedModelError: the head can't be run without it.
        """
        for each in self.states:
            # Each view's is asked for later, and what can't be is refused now.
            self.head.view(each.spec)
        first = next((each for each in self.states if each.some() is not None), None)
        if first is not None and first.kind is not None:
            states = first.some()
            assert states is not None
            self.head.let_go(first.spec, first.kind, states)

    def close(self) -> None:
        """Forgets all of it."""
        for each in self.states:
            each.spool.close()
        self.head.close()


@dataclass(frozen=True, slots=True)
class Reference:
    """The model that others are held against, in one view and perhaps more.

    Attributes:
        model: What is kept of it.
        texts: The texts, with its tokens.
    """

    model: Model
    texts: Texts

    @classmethod
    def of(
        cls,
        backend: HFBackend,
        texts: Sequence[Prompt],
        completions: Sequence[str | None] | None,
        *,
        windows: bool | None,
        view: HFView | str,
        more_views: Sequence[HFView | str] = (),
    ) -> Reference:
        """Runs the texts in the reference's view, and in others that are compared later.

        Args:
            backend: The reference's.
            texts: As in ``HFBackend.compare``.
            completions: As there.
            windows: As there.
            view: The view that other models are held against.
            more_views: Others of the same model.

        Raises:
            ForwardCacheError: as in ``states_of``.
        """
        specs = [*backend._specs_of([view]), *backend._specs_of(more_views)]
        read = Texts.of(backend, texts, completions, windows)
        states = [states_of(backend, spec, read, read.rows) for spec in specs]
        return cls(Model(HeadAlone(backend), states), read)

    def read_by(self, backend: HFBackend) -> Model:
        """The texts run by another model.

        Args:
            backend: Its backend.

        Raises:
            InvalidInputError: it has another vocabulary.
            ForwardCacheError: as in ``states_of``.
        """
        check_tokens(self.texts.tokenizer, backend.tokenizer)
        head = HeadAlone(backend)
        common_rows(self.texts.tokenizer, self.model.head.vocab_size, head.vocab_size)
        rows = self.texts.read_by(backend)
        return Model(head, [states_of(backend, None, self.texts, rows)])

    def pair(self, other: Model, max_logit_bytes: int) -> Pair:
        """Another model beside the reference.

        Args:
            other: As ``read_by`` gave it.
            max_logit_bytes: As in ``compare_models``.
        """
        return paired(self.model.kept(), other.kept(), self.texts.tokenizer, max_logit_bytes)


def paired(reference: Kept, view: Kept, tokenizer: Any, max_logit_bytes: int) -> Pair:
    """Two of what was kept, over the ids that both have.

    Args:
        reference: What the other is held against.
        view: The other.
        tokenizer: The reference's.
        max_logit_bytes: As in ``compare_models``.
    """
    vocab = common_rows(tokenizer, reference.head.vocab_size, view.head.vocab_size)
    return Pair(reference, view, vocab, max_logit_bytes)
