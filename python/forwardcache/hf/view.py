"""A view: one way to run a model, in force inside its ``with``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardcache.errors import InvalidInputError, NestedViewError, StaleViewError
from forwardcache.hf import generate as generation
from forwardcache.hf.encode import Encoded, Encoder
from forwardcache.hf.ops import (
    CONTINUATION_LOGPROB,
    LOGPROB_OF,
    ROLLING_LOGPROB,
    TOKEN_DIST_AT,
    checked_ids,
    items_with_ids,
    next_token_dist,
)
from forwardcache.hf.scorer import OnError, Scorer
from forwardcache.hf.spec import ViewSpec
from forwardcache.scoring import (
    CompletionLogprob,
    ContinuationLogprob,
    RollingLogprob,
    TokenDist,
)

Result = TypeVar("Result")

# The views whose ``with`` is open in this thread or context.
_entered: ContextVar[tuple[HFView, ...]] = ContextVar("forwardcache_entered_views", default=())


class HFView:
    """One way to run a model: ``with backend.as_base() as base: base.next_token_dist(...)``.

    Entering switches nothing. The model is switched when a value has to be computed, and is as
    before when the call returns. A view serves several threads; their forwards take turns.

    Raises:
        StaleViewError: a method is called before the view's ``with`` or after it, or a view is
            entered twice.
        NestedViewError: a view is entered, or used, inside another view's ``with`` of the same
            model in the same thread or context.
        UnsupportedModelError: on entering, if this model can't give the view exactly.
        AdapterError: on entering, if the view needs an adapter and the model has none.
    """

    def __init__(self, scorer: Scorer, spec: ViewSpec | None) -> None:
        self._scorer = scorer
        self._spec = spec
        self._stage = "not entered yet"

    @classmethod
    def standing(cls, scorer: Scorer) -> HFView:
        """The model as it stands, always in force."""
        view = cls(scorer, None)
        view._stage = "in force"
        return view

    @property
    def spec(self) -> ViewSpec | None:
        """What the view is; None for the model as it stands."""
        return self._spec

    @property
    def view_id(self) -> str:
        """The view's name; a scaled view with λ 0 or 1 is traced as ``base`` or ``ft``."""
        return (self._spec or self._scorer.own_spec()).view_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.view_id}, {self._stage}>"

    def __enter__(self) -> HFView:
        if self._stage != "not entered yet":
            raise StaleViewError(f"view {self.view_id} is {self._stage}; ask for a new one")
        refuse_inside_view(self._scorer)
        self._scorer.check(self._spec)
        self._stage = "in force"
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stage = "left"
        # By identity, not by the variable's token: a generator may leave in another context.
        _entered.set(tuple(view for view in _entered.get() if view is not self))

    def next_token_dist(self, prompt: str, *, top_k: int = 256) -> TokenDist:
        """Distribution of the token after ``prompt``.

        Args:
            prompt: Text; may be empty if the tokenizer has a BOS token.
            top_k: Number of most likely tokens wanted; more than the vocabulary means all.

        Returns:
            The ``top_k`` tokens and the mass of all others, nats.

        Raises:
            EmptyPromptError: the prompt has no token and there is no BOS token.
            ContextLengthError: the prompt is longer than the model's context.
        """
        dist: TokenDist = self._in_force().one(self._spec, next_token_dist(top_k), prompt)
        return dist

    def next_token_dist_batch(
        self, prompts: Sequence[str], *, top_k: int = 256, on_error: OnError = "raise"
    ) -> list[Any]:
        """``next_token_dist`` of each prompt, in order.

        Args:
            prompts: Texts.
            top_k: As in the single form.
            on_error: "raise": once all others are computed and cached, the error of the first
                prompt that can't be scored is raised, with ``index`` and ``results``. "return":
                errors stand at their positions.

        Raises:
            ForwardCacheError: as in the single form.
        """
        op = next_token_dist(top_k)
        return self._in_force().many(self._spec, op, prompts, on_error)

    def rolling_logprob(self, text: str) -> RollingLogprob:
        """Log-probability of each token of ``text`` given those before it.

        Args:
            text: Plain text; a chat template is not put around it.

        Returns:
            All tokens, and nats for the second onwards; with fewer than two tokens nothing is run.

        Raises:
            ContextLengthError: the text is longer than the model's context.
        """
        rolling: RollingLogprob = self._in_force().one(self._spec, ROLLING_LOGPROB, text)
        return rolling

    def rolling_logprob_batch(
        self, texts: Sequence[str], *, on_error: OnError = "raise"
    ) -> list[Any]:
        """``rolling_logprob`` of each text, in order; ``on_error`` as in the other batches."""
        return self._in_force().many(self._spec, ROLLING_LOGPROB, texts, on_error)

    def logprob_of(self, prompt: str, completion: str) -> float:
        """Log-probability of ``completion`` after ``prompt``.

        Args:
            prompt: Text before the completion; may be empty if the tokenizer has a BOS token.
            completion: Text to score. It is tokenized together with the prompt; a token that
                spans the boundary counts as completion.

        Returns:
            Sum over the completion's tokens, in nats; not normalised by length.

        Raises:
            EmptyCompletionError: the completion adds no token.
            EmptyPromptError: no token stands before the completion and there is no BOS token.
            ContextLengthError: both are longer than the model's context.

        Source:
            Chain rule; same quantity as ``LM.loglikelihood`` of lm-evaluation-harness.
        """
        logprob: float = self._in_force().one(self._spec, LOGPROB_OF, (prompt, completion))
        return logprob

    def logprob_of_batch(
        self, pairs: Sequence[tuple[str, str]], *, on_error: OnError = "raise"
    ) -> list[Any]:
        """``logprob_of`` of each pair, in order; ``on_error`` as in the other batches."""
        return self._in_force().many(self._spec, LOGPROB_OF, _tuples(pairs), on_error)

    def completion_logprob(self, prompt: str, completion: str) -> CompletionLogprob:
        """``logprob_of`` with the number of tokens scored and how they meet the prompt.

        The same pass and the same cache entry as ``logprob_of``.

        Args:
            prompt: As in ``logprob_of``.
            completion: As in ``logprob_of``.

        Raises:
            ForwardCacheError: as in ``logprob_of``.
        """
        logprob = self.logprob_of(prompt, completion)
        found: CompletionLogprob = self._with_tokens([(prompt, completion)], [logprob])[0]
        return found

    def completion_logprob_batch(
        self, pairs: Sequence[tuple[str, str]], *, on_error: OnError = "raise"
    ) -> list[Any]:
        """``completion_logprob`` of each pair, in order; ``on_error`` as in the other batches."""
        return self._with_tokens(_tuples(pairs), self.logprob_of_batch(pairs, on_error=on_error))

    def _with_tokens(self, pairs: Sequence[Any], logprobs: Sequence[Any]) -> list[Any]:
        encoded = self._scorer.encoded("pair", pairs)
        return [
            CompletionLogprob(logprob, len(tokens.scored), tokens.spans_boundary)
            if isinstance(logprob, float) and isinstance(tokens, Encoded)
            else logprob
            for logprob, tokens in zip(logprobs, encoded, strict=True)
        ]

    def continuation_logprob(
        self, context: Sequence[int], continuation: Sequence[int]
    ) -> ContinuationLogprob:
        """Log-probability of given tokens after given tokens, and whether they are the greedy ones.

        For callers that tokenize themselves: nothing is added to the tokens or merged. In the
        trace the prompt is the two lists of ids, in decimal.

        Args:
            context: int[n], at least one, each below the vocabulary's size.
            continuation: int[m], at least one, likewise; n + m - 1 tokens are read.

        Returns:
            Sum over the continuation's tokens, nats, and their number.

        Raises:
            InvalidInputError: an id is no integer or outside the vocabulary.
            EmptyPromptError: the context is empty.
            EmptyCompletionError: the continuation is empty.
            ContextLengthError: both are longer than the model's context.
        """
        item = (context, continuation)
        found: ContinuationLogprob = self._in_force().one(self._spec, CONTINUATION_LOGPROB, item)
        return found

    def continuation_logprob_batch(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """``continuation_logprob`` of each pair, in order; ``on_error`` as in the other batches."""
        return self._in_force().many(self._spec, CONTINUATION_LOGPROB, pairs, on_error)

    def token_dist_at(self, prompt: str, token_ids: ArrayLike) -> TokenDist:
        """Next-token log-probabilities of given ids, and the mass of all others.

        Args:
            prompt: As in ``next_token_dist``.
            token_ids: int[k], at least one, each below the vocabulary's size.

        Returns:
            The k ids in the order given, and the log of the mass outside them, nats.

        Raises:
            InvalidInputError: the ids are empty, not integers, or outside the vocabulary.
        """
        item = (prompt, self._ids(token_ids))
        dist: TokenDist = self._in_force().one(self._spec, TOKEN_DIST_AT, item)
        return dist

    def token_dist_at_batch(
        self,
        prompts: Sequence[str],
        token_ids: Sequence[ArrayLike],
        *,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """``token_dist_at`` of each prompt with its own ids; ``on_error`` as elsewhere."""
        items = items_with_ids(prompts, token_ids, self._scorer.runner.vocab_size)
        return self._in_force().many(self._spec, TOKEN_DIST_AT, items, on_error)

    def logprobs_at(self, prompt: str, token_ids: ArrayLike) -> NDArray[np.float32]:
        """Next-token log-probabilities of given ids.

        Args:
            prompt: As in ``next_token_dist``.
            token_ids: int[k], at least one, each below the vocabulary's size.

        Returns:
            float32[k], nats, in the order of the ids; read-only.

        Raises:
            InvalidInputError: the ids are empty, not integers, or outside the vocabulary.
        """
        return self.token_dist_at(prompt, token_ids).logprobs

    def logprobs_at_batch(
        self,
        prompts: Sequence[str],
        token_ids: Sequence[ArrayLike],
        *,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """``logprobs_at`` of each prompt with its own ids; ``on_error`` as elsewhere."""
        dists = self.token_dist_at_batch(prompts, token_ids, on_error=on_error)
        return [dist.logprobs if isinstance(dist, TokenDist) else dist for dist in dists]

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """Text that the model writes after ``prompt``. Never cached.

        Args:
            prompt: As in ``next_token_dist``.
            max_new_tokens: Most tokens written; fewer if the model ends its text.
            temperature: 0 for greedy; else the logits are divided by it and sampled.
            top_p: Mass of the most likely tokens that are sampled from.
            seed: Seed of the sampling; the process's random state is left alone.

        Returns:
            The new text only, without special tokens.

        Raises:
            InvalidInputError: an option is out of range.
            ContextLengthError: prompt and new tokens are longer than the model's context.
        """
        generation.check_options(max_new_tokens, temperature, top_p)
        scorer = self._in_force()

        def write(encoder: Encoder) -> str:
            fed = encoder.encode("prompt", prompt).fed
            generation.check_fits(len(fed), max_new_tokens, encoder.max_positions)
            ids = generation.new_tokens(
                scorer.causal_lm,
                fed,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
            )
            return generation.continuation(scorer.tokenizer, fed, ids)

        text: str = scorer.run_in(self._spec, write)
        return text

    def run(self, work: Callable[[Any], Result]) -> Result:
        """Calls ``work`` with the model, switched to this view; nothing is cached or traced.

        For what this package has no method for. Other calls on the model wait meanwhile, and
        ``work`` may not score with it.

        Args:
            work: Gets the model: that of transformers, or the PEFT model around it.

        Returns:
            What ``work`` returns.
        """
        scorer = self._in_force()
        result: Result = scorer.run_in(self._spec, lambda _: work(scorer.model))
        return result

    def _ids(self, token_ids: ArrayLike) -> tuple[int, ...]:
        return checked_ids(token_ids, self._scorer.runner.vocab_size)

    def _in_force(self) -> Scorer:
        if self._stage != "in force":
            raise StaleViewError(f"view {self.view_id} is {self._stage}; ask for a new one")
        refuse_inside_view(self._scorer, but=self)
        return self._scorer


def refuse_inside_view(scorer: Scorer, but: HFView | None = None) -> None:
    """Refuses to go on inside another view's ``with`` of the same model.

    Raises:
        NestedViewError: one other than ``but`` is open in this thread or context.
    """
    for view in _entered.get():
        # A context copied inside a `with` may still hold a view that was left since.
        in_force = view._stage == "in force" and view._scorer.lock is scorer.lock
        if view is not but and in_force:
            raise NestedViewError(
                f"inside the `with` of view {view.view_id}: leave it first, or use that view"
            )


def check_views(views: Sequence[HFView], scorer: Scorer) -> None:
    """Refuses views that can't be scored side by side.

    Raises:
        InvalidInputError: one belongs to another backend, or two have the same id.
    """
    ids = [view.view_id for view in views]
    for view, view_id in zip(views, ids, strict=True):
        if view._scorer is not scorer:
            raise InvalidInputError(f"view {view_id} belongs to another backend")
        if ids.count(view_id) > 1:
            raise InvalidInputError(
                f"two views have the id {view_id}; score them in calls of their own"
            )


def _tuples(pairs: Sequence[Any]) -> Sequence[Any]:
    # A key is hashed, so a pair given as a list becomes a tuple; anything else fails as a bad item.
    if isinstance(pairs, str):
        return pairs
    return [tuple(pair) if isinstance(pair, list) else pair for pair in pairs]
