"""Checks of scoring: each operation, alone and in batches, against one plain forward a row."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from forwardcache.errors import ContextLengthError
from forwardcache.hf import HFBackend
from tests.hf import tiny
from tools.matrix.oracle import Oracle, distance
from tools.matrix.shrink import CONTEXT
from tools.matrix.verdict import Finding, ModelError

# Room for the logits of so few positions that the head runs in chunks and rows in small groups.
FEW_LOGITS = 4 * tiny.VOCAB * 5
_RANDOM = random.Random(7)


def text(tokens: int) -> str:
    """A text of that many tokens with its BOS: upper-case letters, of which none are merged."""
    return "".join(_RANDOM.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(tokens - 1))


_SHARED = text(25)
_SAME = text(9)
PROMPTS = [
    *map(text, (2, 3, 5, 8)),
    *(_SAME, _SAME, text(9)),
    *map(text, (13, 20, 33, 47)),
    *(_SHARED + text(1 + more) for more in (1, 1, 2, 4, 7)),
    text(CONTEXT - 2),
]
TEXTS = [text(2), _SAME, *map(text, (9, 17, 30)), _SHARED + "AB", _SHARED + "QXY", text(60)]
_FIRST = text(12)
PAIRS = [
    *((_FIRST, text(1 + more)) for more in (1, 2, 3, 5, 8, 8)),
    *((_SHARED, text(1 + more)) for more in (1, 2, 4)),
    *((text(4), text(4)), (text(40), text(12)), (_SAME, "AZ"), (_SAME, "AZ")),
]
SINGLE = [0, 2, 7, 9, 11]


class Scored:
    """What a model is held to.

    Args:
        oracle: The model's plain forwards.
        tokenizer: How text is read.
    """

    def __init__(self, oracle: Oracle, tokenizer: Any) -> None:
        self._oracle, self._tokenizer = oracle, tokenizer

    def ids(self, text: str) -> list[int]:
        """The tokens of a text."""
        return list(self._tokenizer(text)["input_ids"])

    def dists(self, prompts: Sequence[str], found: Sequence[Any]) -> float:
        """Largest error of distributions over the whole vocabulary."""
        errors = [float(len(prompts) != len(found))]
        for prompt, dist in zip(prompts, found, strict=False):
            expected = self._oracle.after(self.ids(prompt))[-1]
            errors.append(distance(dist.logprobs, expected[dist.token_ids.copy()]))
            errors.append(float(len(dist.token_ids) != len(expected)))
        return max(errors)

    def rolled(self, texts: Sequence[str], found: Sequence[Any]) -> float:
        """Largest error of the scores of texts, a token."""
        return max(
            distance(rolling.logprobs, self._oracle.scored(self.ids(text)))
            for text, rolling in zip(texts, found, strict=True)
        )

    def causal(self, text: str, rolling: Any) -> float:
        """Largest error against values that can't have seen what comes later."""
        row = self.ids(text)
        places = range(1, len(row), 3)
        found = [rolling.logprobs[place - 1] for place in places]
        return distance(found, self._oracle.causal(row, places))

    def completions(self, pairs: Sequence[tuple[str, str]], found: Sequence[float]) -> float:
        """Largest error of completions, a token."""
        errors = []
        for (prompt, completion), value in zip(pairs, found, strict=True):
            begin, row = len(self.ids(prompt)), self.ids(prompt + completion)
            expected = float(self._oracle.scored(row, begin).double().sum())
            errors.append(distance([value], [expected]) / (len(row) - begin))
        return max(errors)

    def at_the_edge(self, backend: HFBackend, tokens: int) -> float:
        """Error of a prompt as long as the context or longer: right, or refused as too long."""
        prompt = text(tokens)
        try:
            found = backend.next_token_dist(prompt, top_k=tiny.VOCAB)
        except ContextLengthError:
            if tokens > CONTEXT:
                return 0.0
            try:
                self._oracle.after(self.ids(prompt))
            except ModelError:
                return 0.0
            raise
        return self.dists([prompt], [found])


def scoring(make: Callable[..., HFBackend], scored: Scored) -> Finding:
    """The operations, alone and in batches.

    Args:
        make: A new backend with those options.
        scored: What its values are held to.
    """
    finding = Finding()
    try:
        alone, together = make(), make()
        few = make(max_logit_bytes=FEW_LOGITS, max_padding=1.0)
    except Exception as error:
        finding.check("HFBackend", _raising(error))
        return finding
    _batches(finding, together, scored, "in a batch")
    _batches(finding, few, scored, "in chunks")
    _singles(finding, alone, scored)
    _edges(finding, alone, scored)
    return finding


def _raising(error: Exception) -> Callable[[], float]:
    def fail() -> float:
        raise error

    return fail


def _batches(finding: Finding, backend: HFBackend, scored: Scored, how: str) -> None:
    size = tiny.VOCAB
    finding.check(
        f"next_token_dist {how}",
        lambda: scored.dists(PROMPTS, backend.next_token_dist_batch(PROMPTS, top_k=size)),
    )
    finding.check(
        f"rolling_logprob {how}",
        lambda: scored.rolled(TEXTS, backend.rolling_logprob_batch(TEXTS)),
    )
    finding.check(
        f"logprob_of {how}", lambda: scored.completions(PAIRS, backend.logprob_of_batch(PAIRS))
    )


def _singles(finding: Finding, backend: HFBackend, scored: Scored) -> None:
    def one_by_one(method: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        return [method(item) if isinstance(item, str) else method(*item) for item in items]

    def dist(prompt: str) -> Any:
        return backend.next_token_dist(prompt, top_k=tiny.VOCAB)

    prompts = [PROMPTS[place] for place in SINGLE]
    texts, pairs = TEXTS[1:5], PAIRS[:5]
    finding.check("next_token_dist", lambda: scored.dists(prompts, one_by_one(dist, prompts)))
    finding.check(
        "rolling_logprob",
        lambda: scored.rolled(texts, one_by_one(backend.rolling_logprob, texts)),
    )
    finding.check(
        "logprob_of",
        lambda: scored.completions(pairs, one_by_one(backend.logprob_of, pairs)),
    )
    finding.check(
        "rolling_logprob with other tokens after it",
        lambda: max(scored.causal(each, backend.rolling_logprob(each)) for each in TEXTS[3:5]),
    )


def _edges(finding: Finding, backend: HFBackend, scored: Scored) -> None:
    for tokens in range(CONTEXT - 1, CONTEXT + 3):
        what = f"a prompt of {tokens} tokens, of {CONTEXT}"
        finding.check(what, partial(scored.at_the_edge, backend, tokens))
