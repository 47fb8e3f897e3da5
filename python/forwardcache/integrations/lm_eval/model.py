"""``forwardcache`` as a model of lm-evaluation-harness.

The harness's own class for Hugging Face models goes on to make tokens out of text, so that its
prompts, windows, chat templates and stop sequences are the ones that its users know. Only what runs
the model is replaced: log-likelihoods go through the backend's scorer, in its batches, its cache,
its store and its trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor, cuda
from tqdm import tqdm

from forwardcache.hf import HFBackend
from forwardcache.hf.text.tokenizer_choice import with_bos
from forwardcache.integrations.lm_eval.options import loading_options, refuse_with_backend
from forwardcache.jobs.views import View, parse_view
from forwardcache.scoring import ContinuationLogprob

# Requests scored in one call: what is done is kept when the evaluation is interrupted after it.
_REQUESTS_A_CALL = 2048

# The answer for a continuation of no tokens: certain, and greedy. The harness's own class gives it
# where such a request is batched with another of the same context, and ends the evaluation
# elsewhere.
_NOTHING = (0.0, True)

Tokens = Sequence[int]
Request = tuple[tuple[str, str] | None, Tokens, Tokens]


@register_model("forwardcache")
class ForwardCacheLM(HFLM):
    """A model whose log-likelihoods are computed once, and read from then on.

    Args:
        pretrained: Folder of the model and its tokenizer, or a backend.
        peft: Folder of an adapter.
        view: The view to score in: ``base``, ``ft``, ``scaled:LAMBDA``, ``null:SEED`` or
            ``null:SEED:matched``; None for the model as it stands.
        device: As of ``HFBackend.load``; None for "auto". A GPU that isn't there means the CPU, as
            with the harness's ``hf``: its command line asks for ``cuda:0`` unless told otherwise.
        batch_size: Prompts that write together (``generate_until``). Log-likelihoods run in the
            backend's batches: see ``token_budget`` of ``HFBackend``.
        max_batch_size: Most of them where ``batch_size`` is "auto".
        max_length: Longest text in tokens; None for the model's context length.
        add_bos_token: As in the harness's ``hf``: the tokenizer is loaded again with it. With a
            backend whose tokenizer can't be, it is refused where it would change anything.
        prefix_token_id: As in the harness's ``hf``.
        truncation: As in the harness's ``hf``.
        think_end_token: As in the harness's ``hf``.
        enable_thinking: As in the harness's ``hf``.
        chat_template_args: As in the harness's ``hf``.
        **options: Those of ``HFBackend.load``, such as ``dtype``, ``tokenizer``, ``trace_path``,
            ``identity``; and of the harness's ``hf`` what asks for nothing else than this does
            (``trust_remote_code=False``).

    Raises:
        InvalidInputError: an option is unknown, or can't be met; it is named.
        ForwardCacheError: the model, adapter or view isn't there or can't be scored exactly.
    """

    def __init__(
        self,
        pretrained: str | PathLike[str] | HFBackend,
        *,
        peft: str | PathLike[str] | None = None,
        view: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int = 64,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        truncation: bool = False,
        think_end_token: str | int | None = None,
        enable_thinking: bool | None = None,
        chat_template_args: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._view: View | None = None if view is None else parse_view(view)
        options = loading_options(options)
        if isinstance(pretrained, HFBackend):
            refuse_with_backend({"peft": peft, **options})
        else:
            pretrained = HFBackend.load(pretrained, peft, device=_device(device), **options)
        self._backend = pretrained
        super().__init__(
            pretrained=self._backend.model,
            tokenizer=with_bos(self._backend.tokenizer, add_bos_token),
            batch_size=batch_size,
            max_batch_size=max_batch_size,
            max_length=max_length,
            add_bos_token=add_bos_token,
            prefix_token_id=prefix_token_id,
            truncation=truncation,
            think_end_token=think_end_token,
            enable_thinking=enable_thinking,
            chat_template_args=chat_template_args,
        )
        # Refuses a view that this model can't give before any task is loaded.
        with self._in_view():
            pass

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its context, and whether it is the greedy one.

        Args:
            requests: The harness's, each with context and continuation.
            disable_tqdm: Whether no bar is shown.

        Returns:
            A sum in nats and the flag for each request; 0 and True where the continuation adds no
            token.
        """
        # Without a context the harness's own method looks at the continuation's first token.
        asked = [request for request in requests if request.args[0] or self._has_tokens(request)]
        answers = iter(super().loglikelihood(asked, disable_tqdm=disable_tqdm))
        are_asked = set(map(id, asked))
        return [
            next(answers) if id(each) in are_asked else self._of_nothing(each) for each in requests
        ]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of each whole text, in windows of the model's length.

        Each token counts once, after as many tokens as its window has before it; the first one
        comes after the prefix token.

        Args:
            requests: The harness's, each with a text as its only argument.
            disable_tqdm: Whether no bar is shown.

        Returns:
            One sum a request, nats.
        """
        texts = [request.args[0] for request in requests]
        windows = [self._windows(text) for text in texts]
        flat: list[Request] = [(None, *window) for each in windows for window in each]
        scored = iter(self._loglikelihood_tokens(flat, disable_tqdm=disable_tqdm))
        sums = [sum(next(scored)[0] for _ in each) for each in windows]
        for text, total in zip(texts, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return sums

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results: the model, and what scoring it took."""
        stats = self._backend.stats
        return {
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": self.model.dtype,
            "forwardcache_passes": stats.forward_passes,
            "forwardcache_hits": stats.cache_hits,
        }

    def _of_nothing(self, request: Any) -> tuple[float, bool]:
        self.cache_hook.add_partial("loglikelihood", request.args, _NOTHING)
        return _NOTHING

    def _has_tokens(self, request: Any) -> bool:
        return bool(self.tok_encode(request.args[1], add_special_tokens=False))

    def _windows(self, text: str) -> list[tuple[Tokens, Tokens]]:
        """Context and continuation of each window of ``text``."""
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [make_disjoint_window(window) for window in windows]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        scored = iter(self._scored([request for request in requests if request[2]], disable_tqdm))
        answers = [next(scored) if request[2] else _NOTHING for request in requests]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            # A window of a rolling request has no texts; its request is noted as a whole.
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _scored(self, requests: Sequence[Request], disable_tqdm: bool) -> list[tuple[float, bool]]:
        pairs = [self._cut(context, continuation) for _, context, continuation in requests]
        with self._in_view() as view, self._progress(pairs, disable_tqdm):
            found: list[ContinuationLogprob] = [
                one
                for begin in range(0, len(pairs), _REQUESTS_A_CALL)
                for one in view.continuation_logprob_batch(pairs[begin : begin + _REQUESTS_A_CALL])
            ]
        return [(one.logprob, one.is_greedy) for one in found]

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **options: Any
    ) -> Tensor:
        generate = super()._model_generate
        with self._in_view() as view:
            written: Tensor = view.run(lambda _: generate(context, max_length, stop, **options))
        return written

    def _cut(self, context: Tokens, continuation: Tokens) -> tuple[Tokens, Tokens]:
        """The end of the context that fits into the model's context; the last token is not read."""
        available = self.max_length + 1 - len(continuation)
        return context[max(0, len(context) - available) :], continuation

    @contextmanager
    def _in_view(self) -> Iterator[Any]:
        """Who scores, in the view that was asked for."""
        if self._view is None:
            yield self._backend
        else:
            with self._view.of(self._backend) as view:
                yield view

    @contextmanager
    def _progress(self, pairs: Sequence[tuple[Tokens, Tokens]], hidden: bool) -> Iterator[None]:
        """A bar over the tokens that are done."""
        tokens = sum(len(context) + len(continuation) - 1 for context, continuation in pairs)
        before = self._backend.progress
        with tqdm(total=tokens, unit="tokens", desc="Log-likelihoods", disable=hidden) as bar:
            self._backend.progress = bar.update
            try:
                yield
            finally:
                self._backend.progress = before


def _device(device: str | None) -> str:
    is_missing = device is not None and device.startswith("cuda") and not cuda.is_available()
    return "auto" if device is None or is_missing else device
