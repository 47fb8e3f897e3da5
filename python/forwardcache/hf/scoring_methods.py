"""What can be asked of a model, by a view or of the model as it stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardcache.errors import ForwardCacheError, InvalidInputError
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.scoring.scorer import OnError, Scorer
from forwardcache.hf.spec import ViewSpec
from forwardcache.hf.stream.generate import Writing
from forwardcache.hf.text.chat import RenderedPrompt
from forwardcache.operation import Operation
from forwardcache.operations import logprobs_at, operation
from forwardcache.operations.continuation_logprob import ContinuationLogprob as OfContinuation
from forwardcache.operations.hidden_states import HiddenStates as OfStates
from forwardcache.operations.logprob_of import LogprobOf
from forwardcache.operations.logprobs_at import LogprobsAt
from forwardcache.operations.next_token_dist import NextTokenDist
from forwardcache.operations.rolling_logprob import RollingLogprob as OfText
from forwardcache.scoring import (
    CompletionLogprob,
    ContinuationLogprob,
    RollingLogprob,
    TokenDist,
)

Result = TypeVar("Result")

Prompt = str | Sequence[Mapping[str, Any]] | RenderedPrompt
"""A text, or with a chat template also the turns of a chat, or what the template made of either."""


class Operations(ABC):
    """What ``HFView`` and ``HFBackend`` score with; each operation for one item and for a batch."""

    _scorer: Scorer

    @property
    @abstractmethod
    def spec(self) -> ViewSpec | None:
        """The view that runs them; None for the model as it stands."""

    @abstractmethod
    def _in_force(self) -> Scorer:
        """The scorer, if it may be used here and now."""

    def values(
        self,
        op: str | Operation,
        items: Sequence[Any],
        *,
        on_error: OnError = "raise",
        **options: Any,
    ) -> list[Any]:
        """The value of each item, in order, of any operation.

        Args:
            op: The operation, or its name.
            items: What it takes: prompts, texts, pairs, ...
            on_error: As in ``next_token_dist_batch``.
            **options: Of an operation that is named: those it has, such as ``top_k``.

        Returns:
            A value an item, or its error with "return".

        Raises:
            InvalidInputError: there is no such operation, or it has no such option.
            ForwardCacheError: an item can't be scored.
        """
        asked = self._named(op, options) if isinstance(op, str) else op
        return self._in_force().many(self.spec, asked, items, on_error)

    def next_token_dist(self, prompt: Prompt, *, top_k: int = 256) -> TokenDist:
        """Distribution of the token after ``prompt``.

        Args:
            prompt: Text; may be empty if the tokenizer has a BOS token. With a chat template also a
                list of messages, each with role and content: the model goes on with the last one
                where that is the assistant's.
            top_k: Number of most likely tokens wanted; more than the vocabulary means all.

        Returns:
            The ``top_k`` tokens and the mass of all others, nats.

        Raises:
            ViewParameterError: ``top_k`` is not an integer of at least 1.
            InvalidInputError: the prompt is neither a text nor messages that the chat template
                takes.
            EmptyPromptError: the prompt has no token and there is no BOS token.
            ContextLengthError: the prompt is longer than the model's context.
        """
        dist: TokenDist = self._in_force().one(self.spec, NextTokenDist(top_k), prompt)
        return dist

    def next_token_dist_batch(
        self, prompts: Sequence[Prompt], *, top_k: int = 256, on_error: OnError = "raise"
    ) -> list[Any]:
        """``next_token_dist`` of each prompt, in order.

        Args:
            prompts: Each as in the single form.
            top_k: As in the single form.
            on_error: "raise": once all others are computed and cached, the error of the first
                prompt that can't be scored is raised, with ``index`` and ``results``. "return":
                errors stand at their positions.

        Returns:
            A ``TokenDist`` a prompt, or its error with "return".

        Raises:
            ForwardCacheError: as in the single form.
        """
        return self.values(NextTokenDist(top_k), prompts, on_error=on_error)

    def rolling_logprob(self, text: str, *, windows: bool | None = None) -> RollingLogprob:
        """Log-probability of each token of ``text`` given those before it.

        Args:
            text: Plain text; a chat template is not put around it.
            windows: Whether a text longer than the context is scored in windows: each token once,
                given those before it in its window, as lm-evaluation-harness does. None for the
                backend's option.

        Returns:
            All tokens, and nats for the second onwards; with fewer than two tokens nothing is run.
            The first is a BOS token that the tokenizer adds, or else the backend's
            ``prefix_token_id`` if it has one.

        Raises:
            ContextLengthError: the text is longer than the model's context, without ``windows``.
        """
        rolling: RollingLogprob = self._in_force().one(self.spec, self._rolling(windows), text)
        return rolling

    def rolling_logprob_batch(
        self, texts: Sequence[str], *, windows: bool | None = None, on_error: OnError = "raise"
    ) -> list[Any]:
        """``rolling_logprob`` of each text, in order.

        Args:
            texts: Plain texts.
            windows: As in the single form.
            on_error: As in ``next_token_dist_batch``.

        Returns:
            A ``RollingLogprob`` a text, or its error with "return".

        Raises:
            ForwardCacheError: as in the single form.
        """
        return self.values(self._rolling(windows), texts, on_error=on_error)

    def logprob_of(self, prompt: Prompt, completion: str) -> float:
        """Log-probability of ``completion`` after ``prompt``.

        Args:
            prompt: Text before the completion, or messages, as in ``next_token_dist``; may be empty
                if the tokenizer has a BOS token.
            completion: Text to score. It is tokenized together with the prompt; a token that
                spans the boundary counts as completion, as does a letter that the tokenizer
                composes across it. The prompt's own last token stays the prompt's where it
                only swallows whitespace of the completion.

        Returns:
            Sum over the completion's tokens, in nats; not normalised by length.

        Raises:
            InvalidInputError: the tokenizer can't read one of them, or gives a token that the model
                has no row for.
            EmptyCompletionError: the completion adds no token.
            EmptyPromptError: no token stands before the completion and there is no BOS token.
            ContextLengthError: both are longer than the model's context.

        Source:
            Chain rule. The same quantity as ``loglikelihood`` of lm-evaluation-harness's ``hf``
            where the prompt isn't empty and doesn't end in whitespace, no token spans the boundary
            (``completion_logprob`` tells), the tokenizer appends no EOS, and the prompt doesn't
            begin with the BOS token's text. Elsewhere the harness moves the whitespace into the
            completion, cuts the joint tokens at the prompt's own number, which may be inside the
            completion, or scores the EOS.
        """
        logprob: float = self._in_force().one(self.spec, LogprobOf(), (prompt, completion))
        return logprob

    def logprob_of_batch(
        self, pairs: Sequence[tuple[Prompt, str]], *, on_error: OnError = "raise"
    ) -> list[Any]:
        """``logprob_of`` of each pair, in order.

        Args:
            pairs: Prompt and completion each.
            on_error: As in ``next_token_dist_batch``.

        Returns:
            A float in nats a pair, or its error with "return".

        Raises:
            ForwardCacheError: as in the single form.
        """
        return self.values(LogprobOf(), _tuples(pairs), on_error=on_error)

    def completion_logprob(self, prompt: Prompt, completion: str) -> CompletionLogprob:
        """``logprob_of`` with the number of tokens scored and how they meet the prompt.

        The same forward and the same cache entry as ``logprob_of``.

        Args:
            prompt: As in ``logprob_of``.
            completion: As in ``logprob_of``.

        Returns:
            The sum in nats, the number of tokens, and whether one of them spans the boundary.

        Raises:
            ForwardCacheError: as in ``logprob_of``.
        """
        [pair] = self._scorer.framed("pair", [(prompt, completion)])
        if isinstance(pair, ForwardCacheError):
            raise pair
        logprob: float = self._in_force().one(self.spec, LogprobOf(), pair)
        found: CompletionLogprob = self._with_tokens([pair], [logprob])[0]
        return found

    def completion_logprob_batch(
        self, pairs: Sequence[tuple[Prompt, str]], *, on_error: OnError = "raise"
    ) -> list[Any]:
        """``completion_logprob`` of each pair, in order.

        Args:
            pairs: Prompt and completion each.
            on_error: As in ``next_token_dist_batch``.

        Returns:
            A ``CompletionLogprob`` a pair, or its error with "return".

        Raises:
            ForwardCacheError: as in the single form.
        """
        framed = self._scorer.framed("pair", _tuples(pairs))
        with _results_too(lambda values: self._with_tokens(framed, values)):
            logprobs = self.logprob_of_batch(framed, on_error=on_error)
        return self._with_tokens(framed, logprobs)

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
            context: int[n], at least one, each an id that the model's embedding has.
            continuation: int[m], at least one, each an id that its head has, and all but the last
                its embedding too; n + m - 1 tokens are read.

        Returns:
            Sum over the continuation's tokens, nats, and their number.

        Raises:
            InvalidInputError: an id is no integer or outside the vocabulary.
            EmptyPromptError: the context is empty.
            EmptyCompletionError: the continuation is empty.
            ContextLengthError: both are longer than the model's context.
        """
        item = (context, continuation)
        found: ContinuationLogprob = self._in_force().one(self.spec, OfContinuation(), item)
        return found

    def continuation_logprob_batch(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """``continuation_logprob`` of each pair, in order.

        Args:
            pairs: Ids of context and continuation each, int[n] and int[m].
            on_error: As in ``next_token_dist_batch``.

        Returns:
            A ``ContinuationLogprob`` a pair, or its error with "return".

        Raises:
            ForwardCacheError: as in the single form.
        """
        return self.values(OfContinuation(), pairs, on_error=on_error)

    def token_dist_at(self, prompt: Prompt, token_ids: ArrayLike) -> TokenDist:
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
        dist: TokenDist = self._in_force().one(self.spec, LogprobsAt(), item)
        return dist

    def token_dist_at_batch(
        self,
        prompts: Sequence[Prompt],
        token_ids: Sequence[ArrayLike],
        *,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """``token_dist_at`` of each prompt with its own ids, in order.

        Args:
            prompts: Each as in the single form.
            token_ids: int[k] for each prompt; k may differ.
            on_error: As in ``next_token_dist_batch``.

        Returns:
            A ``TokenDist`` a prompt, or its error with "return".

        Raises:
            InvalidInputError: there are not as many lists of ids as prompts.
            ForwardCacheError: as in the single form.
        """
        items = logprobs_at.items(prompts, token_ids, self._scorer.runner.vocab_size)
        return self.values(LogprobsAt(), items, on_error=on_error)

    def logprobs_at(self, prompt: Prompt, token_ids: ArrayLike) -> NDArray[np.float32]:
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
        prompts: Sequence[Prompt],
        token_ids: Sequence[ArrayLike],
        *,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """``logprobs_at`` of each prompt with its own ids, in order.

        Args:
            prompts: Each as in the single form.
            token_ids: int[k] for each prompt; k may differ.
            on_error: As in ``next_token_dist_batch``.

        Returns:
            float32[k] in nats a prompt, or its error with "return".

        Raises:
            InvalidInputError: there are not as many lists of ids as prompts.
            ForwardCacheError: as in the single form.
        """
        with _results_too(_logprobs):
            dists = self.token_dist_at_batch(prompts, token_ids, on_error=on_error)
        return _logprobs(dists)

    def states_batch(self, texts: Sequence[str], *, on_error: OnError = "raise") -> list[Any]:
        """The final hidden state of each token of plain texts: what the model's head reads.

        Cached and stored, with ``keep="values"`` too, under the text's tokens and what the body is:
        neither the head nor an adapter that touches it alone decides them.

        Args:
            texts: As in ``rolling_logprob``.
            on_error: As in ``next_token_dist_batch``.

        Returns:
            A ``HiddenStates`` a text, or its error with "return".

        Raises:
            UnsupportedModelError: the model's head reads something else than its hidden states.
            ForwardCacheError: a text can't be scored, or its last token can't be read.
        """
        return self.values(OfStates(), texts, on_error=on_error)

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        use_generation_config: bool = False,
    ) -> str:
        """Text that the model writes after ``prompt``. Never cached.

        Greedy is the argmax of each step's logits, and sampling knows temperature and top_p alone,
        whatever the model's folder says about generation: only its end tokens are read.

        Args:
            prompt: As in ``next_token_dist``.
            max_new_tokens: Most tokens written; fewer if the model ends its text.
            temperature: 0 for greedy; else the logits are divided by it and sampled.
            top_p: Mass of the most likely tokens that are sampled from.
            seed: Seed of the sampling; the process's random state is left alone.
            use_generation_config: Whether the model's own generation settings decide instead of
                ``temperature`` and ``top_p``: ``do_sample``, ``temperature``, ``top_p``, ``top_k``,
                ``min_p``, ``repetition_penalty``, ``min_length`` and ``min_new_tokens``. Any other
                that would change a token is refused by its name.

        Returns:
            The new text only, without special tokens.

        Raises:
            InvalidInputError: an option is out of range, or a setting of the model's can't be
                honoured.
            ContextLengthError: prompt and new tokens are longer than the model's context.
            InvalidInputError: the model drew a token that it can't read.
            NonFiniteError: the model's logits have a NaN or infinity.
            UnsupportedModelError: the model isn't causal, or can't run on token ids alone.
        """
        writing = Writing(max_new_tokens, temperature, top_p, seed, use_generation_config)
        scorer = self._in_force()
        text: str = scorer.run_in(self.spec, partial(writing.text, scorer, prompt))
        return text

    def run(self, work: Callable[[Any], Result]) -> Result:
        """Calls ``work`` with the model, switched to its view; nothing is cached or traced.

        For what this package has no method for. Other calls on the model wait meanwhile, and
        ``work`` may not score with it.

        Args:
            work: Gets the model: that of transformers, or the PEFT model around it.

        Returns:
            What ``work`` returns.
        """
        scorer = self._in_force()
        result: Result = scorer.run_in(self.spec, lambda _: work(scorer.model))
        return result

    def _named(self, name: str, options: Mapping[str, Any]) -> Operation:
        named = operation(name)
        if unknown := [each for each in options if each not in named.options]:
            there = f"it has {', '.join(named.options)}" if named.options else "it has none"
            raise InvalidInputError(f"{name} has no option {unknown[0]!r}; {there}")
        return self._scorer.operation(name, **options)

    def _rolling(self, windows: bool | None) -> Operation:
        return OfText.of(windows=self._scorer.options.windows if windows is None else windows)

    def _ids(self, token_ids: ArrayLike) -> tuple[int, ...]:
        return logprobs_at.checked_ids(token_ids, self._scorer.runner.vocab_size)


@contextmanager
def _results_too(convert: Callable[[list[Any]], list[Any]]) -> Iterator[None]:
    """Converts the results that a batch's error carries, as its caller would have got them."""
    try:
        yield
    except ForwardCacheError as error:
        if error.results is not None:
            error.results = convert(error.results)
        raise


def _logprobs(dists: Sequence[Any]) -> list[Any]:
    return [dist.logprobs if isinstance(dist, TokenDist) else dist for dist in dists]


def _tuples(pairs: Sequence[Any]) -> Sequence[Any]:
    # A key is hashed, so a pair given as a list becomes a tuple; anything else fails as a bad item.
    if isinstance(pairs, str):
        return pairs
    return [tuple(pair) if isinstance(pair, list) else pair for pair in pairs]
