"""``HFBackend``: a Hugging Face model, its tokenizer, and the views of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from types import MappingProxyType, TracebackType
from typing import Any, Literal, get_args

import torch

from forwardcache.errors import InvalidInputError
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.limits import Limits
from forwardcache.hf.inspection import Inspection
from forwardcache.hf.model import load as loading
from forwardcache.hf.model.adapter_choice import (
    AdapterChoice,
    adapter_to_load,
    check_adapters,
    folders_of,
    named_adapters,
)
from forwardcache.hf.model.adapter_folder import with_adapter
from forwardcache.hf.model.identity import ModelIdentity, Policy
from forwardcache.hf.rounding import Rounding
from forwardcache.hf.scoring.joint import asked_together
from forwardcache.hf.scoring.scorer import Scorer
from forwardcache.hf.scoring.selfcheck import SelfCheck
from forwardcache.hf.scoring.value_store import StoreFigures, ValueStore
from forwardcache.hf.scoring_methods import Operations
from forwardcache.hf.spec import BASE, FINETUNED, ViewSpec, given_null, scaled
from forwardcache.hf.text.encode import encoding_options
from forwardcache.hf.view import HFView, check_views, refuse_inside_view
from forwardcache.instrumentation import BackendInstrumentation, BackendStats
from forwardcache.operations import operation
from forwardcache.store import Store, open_store

Keep = Literal["values", "states"]
"""What a backend caches and stores."""

DEFAULT_CACHE_MAX_BYTES = 512 * 2**20


class HFBackend(Inspection, Rounding, Operations):
    """Scores prompts with one model through several views, each forward once.

    The backend itself scores as the model stands: as ``ft`` if it has an adapter, else as ``base``.
    Inside the ``with`` of a view only that view may be used.

    Args:
        model: A decoder-only causal model of transformers, with or without PEFT around it.
        tokenizer: Its tokenizer.
        adapter: Folder of an adapter to put on the model, or the name of one that it already has.
            Several: folders by their names, for a model without adapters, or a list of the names of
            adapters that it has. Their views end in ``:NAME``. Two names for equal adapters share
            values, which are traced under the first. Folders are loaded when a view of theirs has
            to be run (and once in the beginning), and loaded again when their files change; the
            model itself then has no adapter on it between calls.
        skip_adapters: Whether adapters with names that can't be used are left out, as long as one
            is left; ``adapters_left_out`` says why.
        max_adapters: How many adapters of folders are in memory at once; the one least recently
            used is let go.
        instrumentation: Cache, trace and counters; made here unless given, and then closed here.
        trace_path: File for the trace of an instrumentation made here.
        cache_maxsize: Most values kept by an instrumentation made here; None for no limit.
        cache_max_bytes: Most bytes of values, prompts and entries kept there; None for no limit.
        identity: How changes of the weights are noticed. In every policy: another structure,
            adapter, scaling, dtype, configuration, hook or tokenizer.

            - "versions": also whatever torch itself sees (in-place operations, tensors replaced or
              pointed at other memory, ``load_adapter``, merging, a step of any torch optimizer),
              and any write to an adapter's tensors. Not: writes to base weights or buffers through
              ``.data``, numpy or another process. Looks as "strict" does where versions can't be
              relied on: parameters of the base model that require a gradient, a module in
              training mode, tensors made in inference mode.
            - "strict": whatever the tensors hold, since all are hashed again at every call.
            - "label": nothing of what the tensors hold. The caller names it and answers for it.

            No policy sees a hook that changes its mind, or another number in a module's own
            attribute: call ``weights_changed`` then.
        identity_label: The name of the weights under "label".
        store_nonfinite: Whether values with a NaN or infinity are stored; counted in any case.
        add_special_tokens: Whether the tokenizer adds its special tokens to plain text.
        chat_template: True to put prompts into the tokenizer's chat template, or a template, or the
            name of one of several. A prompt may then be a list of messages too, dicts with role and
            content; where the last is the assistant's, the model goes on with it. What the template
            writes is in the key, so one that prints the day is never served another day's value.
        chat_template_args: What the template is given with the messages, such as
            ``{"enable_thinking": False}``; JSON values.
        prefix_token_id: Token (its id or text) that a first one stands after where the tokenizer
            adds no BOS: for an empty prompt, and in ``rolling_logprob``, which then scores the
            text's first token too.
        windows: Whether ``rolling_logprob`` scores texts longer than the context in windows, each
            token once.
        token_budget: Most positions (rows x longest) in a batch; None chooses for the device.
        max_padding: Largest share of padding in a batch, 0 to 1.
        max_logit_bytes: Memory for logits at once; None chooses for the device.
        store: Where values outlive the process: a path, an address, or a store that is open (and is
            then left open). Its keys hold a checksum of the weights whatever the policy.
        verify: Share of the hits, of memory and store, that are computed again and compared.
        keep: What is cached and stored: "values", the answers; or "states", the final hidden state
            of each token of a text (``states_batch``), from which the model's head then gives any
            answer without a forward. That is a hit; a miss is a text whose states have to be
            computed. They stand in cache, store and trace under the op ``hidden_states``.

    Raises:
        UnsupportedModelError: the model or its adapter can't be scored exactly, or for
            ``keep="states"`` its head gives other logits than the model's from those states.
        AdapterError: the adapter isn't there or belongs to another model.
        InvalidInputError: a limit is out of range, the chat template isn't there, doesn't parse or
            loses the prompt, or the prefix is no token of the model.
        NestedViewError: a method that scores is called inside a view's ``with``.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        adapter: AdapterChoice = None,
        skip_adapters: bool = False,
        max_adapters: int = 4,
        instrumentation: BackendInstrumentation | None = None,
        trace_path: str | PathLike[str] | None = None,
        cache_maxsize: int | None = None,
        cache_max_bytes: int | None = DEFAULT_CACHE_MAX_BYTES,
        identity: Policy = "versions",
        identity_label: str | None = None,
        store_nonfinite: bool = False,
        add_special_tokens: bool = True,
        chat_template: bool | str = False,
        chat_template_args: Mapping[str, Any] | None = None,
        prefix_token_id: int | str | None = None,
        windows: bool = False,
        token_budget: int | None = None,
        max_padding: float = 0.10,
        max_logit_bytes: int | None = None,
        store: str | PathLike[str] | Store | None = None,
        verify: float = 0.0,
        keep: Keep = "values",
    ) -> None:
        if keep not in get_args(Keep):
            raise InvalidInputError(f"keep must be {' or '.join(get_args(Keep))}, got {keep!r}")
        check_adapters(adapter, max_adapters)
        if isinstance(adapter, str | PathLike):
            model = with_adapter(model, str(adapter))
        causal_lm = loading.causal_lm_of(model)
        limits = Limits.on(causal_lm.device, token_budget, max_padding, max_logit_bytes)
        check = SelfCheck(verify)
        self._owned_store: Store | None = None
        if isinstance(store, str | PathLike):
            store = self._owned_store = open_store(str(store))
        self._owns_instrumentation = instrumentation is None
        if instrumentation is None:
            instrumentation = BackendInstrumentation(
                cache_maxsize=cache_maxsize,
                cache_max_bytes=cache_max_bytes,
                trace_path=None if trace_path is None else str(trace_path),
            )
        runner = ForwardRunner(model, causal_lm, limits)
        self._scorer = Scorer(
            model,
            causal_lm,
            tokenizer,
            runner=runner,
            instrumentation=instrumentation,
            options=encoding_options(
                tokenizer,
                add_special_tokens,
                chat_template,
                chat_template_args,
                prefix_token_id=prefix_token_id,
                windows=windows,
            ),
            identity=(own := ModelIdentity(model, identity, label=identity_label)),
            store_nonfinite=store_nonfinite,
            value_store=None if store is None else ValueStore(store),
            keeps_states=keep == "states",
            check=check,
        )
        named = named_adapters(
            model,
            causal_lm,
            own,
            adapter,
            most=max_adapters,
            body=runner.body,
            base=lambda: ModelIdentity(causal_lm, identity, label=identity_label),
        )
        if named is not None:
            self._scorer.name(named)
        # Looks at the adapter now, so that one that can't be handled is refused here.
        self._scorer.own_specs()
        self._scorer.check_encoding()
        self._left_out = self._scorer.admit(skips=skip_adapters)
        if keep == "states":
            self._scorer.kept.admit()

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        adapter: str | PathLike[str] | Mapping[str, str | PathLike[str]] | None = None,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        allow_download: bool = False,
        tokenizer: str | PathLike[str] | None = None,
        add_bos_token: bool | None = None,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> HFBackend:
        """A backend from a model's folder.

        Args:
            path: Folder with the model and its tokenizer; with ``allow_download`` also a name on
                the hub. A model of images and text is asked about text.
            adapter: Folder with a LoRA adapter of this model; None for the one that lies beside the
                model, if any. Several: folders by their names.
            device: A torch device, or "auto": the GPU if there is one, else the CPU.
            dtype: A floating torch dtype or its name, or "auto": the checkpoint's own.
            allow_download: Whether anything may be fetched. Code that comes with a model is never
                run, and only safetensors files are read.
            tokenizer: "base" for the model's, "adapter" for the one in the adapter's folder, or
                another folder; None for the adapter's where it has one that differs (which is
                logged), else the model's. All views read with it; adapters whose tokenizers differ
                are refused unless one is named.
            add_bos_token: Whether texts begin with BOS; None as the tokenizer's files say.
            attn_implementation: As of transformers ("eager", "sdpa"); None leaves it to the model.
            **options: Those of ``HFBackend``.

        Raises:
            ModelLoadError: the folder is missing or broken.
            AdapterError: the adapter is missing, broken, or belongs to another model.
            UnsupportedModelError: the model is of no kind that gives next tokens of text.
            InvalidInputError: an option is out of range, or the tokenizer can't do what is asked.
        """
        put = adapter_to_load(str(path), adapter, allow_download=allow_download)
        model = loading.load_model(
            str(path),
            device=device,
            dtype=dtype,
            allow_download=allow_download,
            attn_implementation=attn_implementation,
        )
        reads = loading.load_tokenizer(
            str(path),
            folders_of(adapter),
            tokenizer=tokenizer,
            add_bos_token=add_bos_token,
            allow_download=allow_download,
        )
        # Nobody trains it yet; weights that might be trained are hashed at every call.
        model.requires_grad_(False)
        return cls(model, reads, adapter=put, **options)

    @property
    def spec(self) -> None:
        """None: the model as it stands."""

    @property
    def model(self) -> Any:
        """The model that is run; with an adapter, the PEFT model around it."""
        return self._scorer.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; another one may be assigned, and nothing older is served then."""
        return self._scorer.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._scorer.tokenizer = tokenizer

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters' names, in order; empty where the only one has none."""
        named = self._scorer.adapters
        return () if named is None else named.names

    @property
    def adapters_left_out(self) -> Mapping[str, str]:
        """By name of an adapter that can't be used, with ``skip_adapters``: why."""
        return MappingProxyType(self._left_out)

    @property
    def instrumentation(self) -> BackendInstrumentation:
        """What every scoring call goes through; another one may be assigned."""
        return self._scorer.instrumentation

    @instrumentation.setter
    def instrumentation(self, instrumentation: BackendInstrumentation) -> None:
        self._scorer.instrumentation = instrumentation

    @property
    def stats(self) -> BackendStats:
        """The counters of the instrumentation."""
        stats: BackendStats = self.instrumentation.stats
        return stats

    @property
    def store(self) -> StoreFigures:
        """What the store gave and took, and what the self-check found."""
        values, check = self._scorer.value_store, self._scorer.selfcheck
        checked = check.verified, check.mismatches
        if values is None:
            return StoreFigures(0, 0, 0, 0, 0, *checked)
        moved = values.hits, values.misses, values.damaged, values.kept, values.not_kept
        return StoreFigures(*moved, *checked)

    @property
    def progress(self) -> Callable[[int], None] | None:
        """Called with the number of tokens that are newly done; or None.

        A batch is reported when it is done, and whatever was cached at the end of the call. It may
        not score with this model.
        """
        return self._scorer.progress

    @progress.setter
    def progress(self, progress: Callable[[int], None] | None) -> None:
        self._scorer.progress = progress

    @property
    def nonfinite_results(self) -> int:
        """Values with a NaN or infinity computed so far; not stored unless asked for."""
        return self._scorer.nonfinite_results

    @property
    def out_of_memory_batches(self) -> int:
        """Batches so far that did not fit into memory; they were split and run again."""
        return self._scorer.runs.out_of_memory

    def as_base(self) -> HFView:
        """The base model's own weights, without the adapter.

        Raises:
            UnsupportedModelError: (on entering) the adapter is merged, or changed the base weights
                (trained biases, PiSSA, OLoRA).
        """
        return HFView(self._scorer, BASE)

    def as_finetuned(self, adapter: str | None = None) -> HFView:
        """The model with its adapter.

        Args:
            adapter: The name of one of ``adapters``; None for the only one, or for whatever is
                active on a model that came with several and without a list of them.

        Raises:
            InvalidInputError: no adapter is called so, or there are several and none is named.
            AdapterError: (on entering) the model has no adapter.
        """
        return self._view(FINETUNED, adapter)

    def as_scaled_adapter(self, lam: float, *, adapter: str | None = None) -> HFView:
        """The model with ``lam`` times its adapter's present scaling.

        Args:
            lam: Any finite number, also negative. 0 is ``base`` and 1 is ``ft``: the same values.
            adapter: As of ``as_finetuned``.

        Raises:
            ViewParameterError: ``lam`` is not finite.
            InvalidInputError: as of ``as_finetuned``.
            AdapterError: (on entering) the model has no adapter.
            UnsupportedModelError: (on entering) a trained part is beyond the scaling's reach (DoRA,
                modules_to_save, trained tokens or biases), and ``lam`` is neither 0 nor 1.
        """
        return self._view(scaled(lam), adapter)

    def as_null_adapter(
        self,
        seed: int,
        *,
        init_scale: float = 0.02,
        rank_scale: float = 1.0,
        matched: bool = False,
        lam: float = 1.0,
        adapter: str | None = None,
    ) -> HFView:
        """The model with noise in its adapter's place.

        What it adds to the weights has a norm of its own (``update_norm`` of the view), unless it
        is matched: then A and B have one root mean square, and in each module scaling · B · A has
        the trained one's Frobenius norm within 1e-3, in the adapter's dtype: of an embedding in
        each token's column as near as the dtype allows, of experts in one parameter in each. The
        norm is the one at the time of scoring. Rank and shapes are the adapter's, the spectrum is
        the noise's.

        Args:
            seed: Seed of one CPU generator; every LoRA A and B, in the order of
                ``named_parameters()``, becomes float32 normal noise, cast to its dtype.
            init_scale: Standard deviation of the noise, 0 or more; not with ``matched``.
            rank_scale: The deviation is multiplied by its square root; positive; not with
                ``matched``.
            matched: Whether the noise has the trained adapter's norm in each module.
            lam: What a matched null's norm is multiplied by, 0 or more: ``scaled_0.50`` is held
                against nulls of ``lam=0.5``.
            adapter: As of ``as_finetuned``.

        Raises:
            ViewParameterError: a parameter is out of range, or given where it says nothing.
            InvalidInputError: as of ``as_finetuned``.
            AdapterError: (on entering) the model has no adapter.
            UnsupportedModelError: (on entering) the adapter has trained parts other than A and B;
                for ``matched`` also if several adapters are active, or what a layer adds isn't
                known to be one product (``lora_bias``, convolutions in groups). (While scoring) a
                norm isn't finite or can't be had in the dtype, or layers share A without B.
        """
        spec = given_null(seed, init_scale, rank_scale, matched=matched, lam=lam)
        return self._view(spec, adapter)

    def score(
        self, prompts: Sequence[Any], views: Sequence[HFView], op: str, **options: Any
    ) -> dict[str, list[Any]]:
        """Scores the same prompts through several views, one after the other.

        The model is switched at most once a view, and not at all where everything is cached. Views
        of one adapter (base, ``ft``, scaled) share the forwards of few short prompts, once such
        calls have shown that it pays and a measurement that it is exact; values, counters, events
        and keys are those of views that run alone.

        Args:
            prompts: Prompts, texts, or for ``logprob_of`` pairs of prompt and completion.
            views: Views of this backend that are not entered yet (``as_base()`` and so on).
            op: An operation of ``forwardcache.operations``, such as ``next_token_dist``.
            **options: Those of the operation's batched form (``top_k``, ``token_ids``,
                ``on_error``).

        Returns:
            For each view's id, in the order given, what the batched form gives.

        Raises:
            InvalidInputError: there is no such operation, a view is of another backend, or two have
                the same id.
            ForwardCacheError: as in the batched form; what the views before gave is cached.
        """
        operation(op)
        check_views(views, self._scorer)
        results: dict[str, list[Any]] = {}
        with asked_together(self._scorer, [view.spec for view in views]):
            for view in views:
                with view as entered:
                    batch = getattr(entered, f"{op}_batch", partial(entered.values, op))
                    results[view.view_id] = batch(prompts, **options)
        return results

    def close(self) -> None:
        """Closes the instrumentation and the store made here; what was given is left open."""
        if self._owned_store is not None:
            self._owned_store.close()
        if self._owns_instrumentation:
            self.instrumentation.close()

    def __enter__(self) -> HFBackend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _view(self, spec: ViewSpec, adapter: str | None) -> HFView:
        asked = spec if adapter is None else replace(spec, adapter=adapter)
        return HFView(self._scorer, self._scorer.resolved(asked))

    def _in_force(self) -> Scorer:
        refuse_inside_view(self._scorer)
        return self._scorer
