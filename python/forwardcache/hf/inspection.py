"""What a backend tells of its model and of items, without scoring them through the cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from forwardcache.errors import ForwardCacheError
from forwardcache.hf.admission import Admission, admission_of
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.model.identity import Policy
from forwardcache.hf.scoring.noise import SAMPLE, NoiseFloor, measured_floor
from forwardcache.hf.scoring.preflight import nonfinite_logits
from forwardcache.hf.scoring.provenance import Provenance, collecting
from forwardcache.hf.scoring.scorer import Scorer
from forwardcache.hf.spec import BASE, ViewSpec
from forwardcache.hf.text.encode import Form
from forwardcache.hf.view import HFView, refuse_inside_view
from forwardcache.operations import operation


class Inspection:
    """What ``HFBackend`` tells: lengths, texts, provenance, noise, identity."""

    _scorer: Scorer

    @property
    def admission(self) -> Admission:
        """What the model as it stands is let do, as measured."""
        return admission_of(self._scorer)

    def token_lengths(self, items: Sequence[Any], *, op: str) -> list[int | ForwardCacheError]:
        """Checks items without running anything.

        Args:
            items: Prompts, texts, or for ``logprob_of`` pairs of prompt and completion.
            op: The operation they are meant for.

        Returns:
            For each the number of tokens the model would read, or the error that scoring it would
            raise.

        Raises:
            InvalidInputError: there is no such operation.
        """
        return self._scorer.token_lengths(self._scorer.operation(op).form, items)

    def encoded(
        self, items: Sequence[Any], *, form: Form = "prompt"
    ) -> list[Encoded | ForwardCacheError]:
        """The tokens of items, without running anything.

        Args:
            items: Of the form.
            form: What each is: a ``prompt``, a whole ``text``, one in ``windows`` (which may be of
                any length), a ``pair`` of prompt and completion, or a pair of lists of ``tokens``.

        Returns:
            For each all of its tokens and the position of the first one that is scored, or the
            error that scoring it would raise.
        """
        return self._scorer.encoded(form, items)

    def rendered(self, items: Sequence[Any], *, op: str) -> list[Any]:
        """Items with their prompts as the chat template writes them now.

        Scored in place of the items, they keep that text, whatever a template that prints the time
        would write by then.

        Args:
            items: Prompts, or for ``logprob_of`` pairs of prompt and completion.
            op: The operation they are meant for.

        Returns:
            Each item with a ``RenderedPrompt`` for its prompt, or the error that scoring it would
            raise; without a chat template, and for whole texts, the items.

        Raises:
            InvalidInputError: there is no such operation.
        """
        return self._scorer.framed(operation(op).form, items)

    def provenance(self) -> AbstractContextManager[list[Provenance]]:
        """Collects what is computed: ``with backend.provenance() as computed: ...``.

        The list grows by one ``Provenance`` a call of this thread or context that runs the model:
        dtype, device, the batches and a digest of them. What is cached adds nothing.
        """
        return collecting()

    def noise_floor(
        self,
        items: Sequence[Any],
        op: str = "next_token_dist",
        *,
        view: HFView | None = None,
        top_k: int = 256,
        sample: int = SAMPLE,
    ) -> NoiseFloor:
        """How far a view is from itself where only the batches differ.

        A sample of the items, evenly spaced, is run twice past the cache: together, in the batches
        that scoring would make, and each alone. A KL between two views that is no larger than this
        is no more than other batches make. Rounding that is the same in every batch is not in it,
        so a larger one may be rounding still. In float32 on a CPU it is below 1e-6 nats; in half
        precision it depends on the device's kernels, from nothing to 1e-2.

        Args:
            items: Prompts, texts, or for ``logprob_of`` pairs of prompt and completion.
            op: An operation that needs nothing but prompts, such as ``next_token_dist``.
            view: A view that is not entered; None for the model as it stands.
            top_k: Tokens over which the KL is computed, and one bucket for all others.
            sample: Most items that are run.

        Returns:
            Mean and maximum, nats. Items that can't be scored are left out.

        Raises:
            InvalidInputError: there are no items, or no such operation.
        """
        spec = None if view is None else view.spec
        return measured_floor(self._scorer, spec, op, items, top_k=top_k, sample=sample)

    def preflight_finite_check(self) -> tuple[bool, str]:
        """Runs real forwards, past the cache, and looks for NaN and infinity in every logit.

        Returns:
            Whether all are finite, and a line that says which views were run or which one failed.
        """
        refuse_inside_view(self._scorer)
        own = self._scorer.own_specs()
        views = dict.fromkeys([BASE, *own] if self._gives(BASE) else own)
        for view in views:
            reason = self._scorer.run_in(view, partial(nonfinite_logits, self._scorer.runner))
            if reason:
                return False, f"view {view.view_id}: {reason}"
        return True, f"all logits finite in {' and '.join(view.view_id for view in views)}"

    def weights_changed(self) -> None:
        """Serves nothing older from here on.

        For weights that were written in a way torch can't see: through ``.data``, numpy, or another
        process.
        """
        self._scorer.weights_changed()

    def identity(self) -> bytes:
        """32 bytes for the model and tokenizer as they are now; part of every key.

        Under "strict" and "label" the same model, adapter, scaling, dtypes and tokenizer give the
        same bytes in another process, unless the model has hooks or the tokenizer is one written in
        Python. Under "versions" the bytes mean something in this backend only.
        """
        return self._scorer.identity_key()

    @property
    def identity_policy(self) -> Policy:
        """The policy in effect; "versions" may have become "strict"."""
        return self._scorer.identity_policy()

    def _gives(self, spec: ViewSpec) -> bool:
        try:
            self._scorer.check(spec)
        except ForwardCacheError:
            return False
        return True
