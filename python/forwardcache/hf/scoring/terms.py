"""What follows from the model's state and a view, for every call in that view."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from forwardcache.hf.spec import ViewSpec, tagged

if TYPE_CHECKING:
    from forwardcache.hf.model.identity import ModelState
    from forwardcache.hf.text.encode import Encoder, EncodingOptions

# Views whose terms are remembered: a study of nulls enters hundreds in turn.
_MOST_KEPT = 1024


class Terms:
    """What is the same for every call in one state of the model and one view.

    Args:
        state: The state.
        asked: The view that was asked for; None for the model as it stands.
        spec: The view that is run.
        encoder: Makes tokens of texts.
        scope: Whatever else decides a value, beside op, view, item and top_k.
        is_causal: Whether a token's logits depend on what is before it alone.
        lasting: Bytes that the state has in every process; None without a store, or if there are
            none.

    Attributes:
        view_id: The view's name in key and trace.
    """

    __slots__ = ("asked", "encoder", "is_causal", "lasting", "scope", "spec", "state", "view_id")

    def __init__(
        self,
        state: ModelState,
        asked: ViewSpec | None,
        spec: ViewSpec,
        *,
        encoder: Encoder,
        scope: bytes,
        is_causal: bool,
        lasting: bytes | None,
    ) -> None:
        self.state = state
        self.asked = asked
        self.spec = spec
        self.view_id = spec.view_id
        self.encoder = encoder
        self.scope = scope
        self.is_causal = is_causal
        self.lasting = lasting


class KnownTerms:
    """The terms of a model's views, each as of the last look at it in that view.

    The caller of every method but ``knows`` holds the model's lock.
    """

    def __init__(self) -> None:
        self._kept: dict[ViewSpec | None, Terms] = {}
        self._last: Terms | None = None

    def knows(self, asked: ViewSpec | None) -> bool:
        """Whether the model gave this view when it was last looked at."""
        last = self._last
        return (last is not None and last.asked is asked) or asked in self._kept

    def get(self, asked: ViewSpec | None) -> Terms | None:
        """The terms of a view; the caller sees whether the model still is in their state."""
        last = self._last
        # To hash a view takes longer than all the rest.
        if last is not None and last.asked is asked:
            return last
        found = self._kept.get(asked)
        if found is not None and found.asked is asked:
            self._last = found
        return found

    def keep(self, terms: Terms) -> Terms:
        """``terms``, remembered; of the oldest there is no more then."""
        while len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[terms.asked] = self._last = terms
        return terms

    def forget_all_but(self, state: ModelState) -> None:
        """Forgets what was in another state, where all views share one."""
        last = self._last
        if last is not None and last.state is not state:
            self.forget()

    def forget(self) -> None:
        """Begins anew: the model is another one, of which nothing is known."""
        self._kept = {}
        self._last = None


@lru_cache(maxsize=256)
def scope_of(state_key: bytes, spec: ViewSpec, options: EncodingOptions) -> bytes:
    """Whatever else decides a value in that state and view, with these options."""
    return tagged((b"forwardcache.hf", state_key, tagged(spec.key_fields), options.key))
