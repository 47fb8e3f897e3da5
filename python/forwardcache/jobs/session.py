"""Options of the command line into a backend, every failure into one line."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from forwardcache.errors import InvalidInputError
from forwardcache.instrumentation import BackendInstrumentation, TraceWriter
from forwardcache.jobs.adapters import adapters_to_load
from forwardcache.jobs.hits import HitRecorder
from forwardcache.jobs.imports import import_transformers, without_collections
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.reasons import first_line, loading, shown

if TYPE_CHECKING:
    from forwardcache.hf import HFBackend
    from forwardcache.hf.model.identity import Policy
    from forwardcache.store import Store

_log = logging.getLogger("forwardcache")

# A prompt is asked once a view, so what is found here again is only what stands twice in the input.
# A larger one would fill, and add to the memory of a long run.
CACHE_BYTES = 64 * 2**20

_PROBE = "what does the template write?"


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model and its instrumentation.

    Attributes:
        backend: The ``HFBackend``.
        recorder: What the backend calls; knows the hits of the last call.
        instrumentation: What is behind the recorder.
        store: What is under the cache; None without one.
    """

    backend: Any
    recorder: HitRecorder
    instrumentation: BackendInstrumentation
    store: Store | None = None

    @property
    def vocab_size(self) -> int:
        """Tokens in a full distribution."""
        return int(self.backend.model.config.get_text_config().vocab_size)

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the model's weights."""
        return int(self.backend.model.dtype.itemsize)

    def template_digest(self) -> str | None:
        """Digest of what the chat template writes of one prompt now; None without a template.

        A template that prints the day writes another prompt tomorrow.
        """
        [item] = self.backend.rendered([_PROBE], op="next_token_dist")
        text = str(item)
        return None if text == _PROBE else hashlib.sha256(text.encode()).hexdigest()

    def arithmetic(self) -> dict[str, Any]:
        """What values depend on in addition to the weights: dtype, device, kernels, threads."""
        from forwardcache.hf.arithmetic import arithmetic_of

        return arithmetic_of(self.backend)

    def close_trace(self) -> int:
        """Close the trace before the rest; how many events it lacks."""
        # The command says so in a line of its own.
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            return int(self.instrumentation.trace.close())

    def close(self) -> None:
        """Close the backend, the store and the trace."""
        self.backend.close()
        if self.store is not None:
            self.store.close()
        self.instrumentation.close()


def parse_identity(text: str) -> tuple[Policy, str | None]:
    """Policy and label of ``versions``, ``strict`` or ``label:NAME``.

    Raises:
        InvalidInputError: it is none of these.
    """
    policy, colon, label = text.partition(":")
    if policy == "label" and label:
        return "label", label
    if policy == "versions" and not colon:
        return "versions", None
    if policy == "strict" and not colon:
        return "strict", None
    raise InvalidInputError(f"--identity {shown(text)}: give versions, strict or label:NAME")


def load(
    options: ModelOptions,
    store: Store | None = None,
    *,
    ready: Callable[[], object] = bool,
    skip_adapters: bool = False,
) -> Session:
    """Load the model, then open the trace: what can't be loaded leaves none behind.

    Args:
        options: What to load.
        store: The store of these options, if it is open already.
        ready: Called before any file of the model is read.
        skip_adapters: Whether adapters that can't be used are left out, as long as one is left.

    Raises:
        InvalidInputError: it can't be loaded.
        ForwardCacheError: the backend refuses it, with its reason.
        OSError: the trace can't be opened.
    """
    instrumentation, recorder = instruments(options)
    if store is None and options.store is not None:
        store = open_checked(options.store)
    backend = load_backend(options, recorder, store, ready=ready, skip_adapters=skip_adapters)
    open_trace(options, instrumentation)
    return Session(backend, recorder, instrumentation, store)


def instruments(options: ModelOptions) -> tuple[BackendInstrumentation, HitRecorder]:
    """What is behind and before a session's backend, without a trace."""
    instrumentation = BackendInstrumentation(
        cache_maxsize=None, cache_max_bytes=options.cache_bytes or CACHE_BYTES
    )
    return instrumentation, HitRecorder(instrumentation)


def open_trace(options: ModelOptions, instrumentation: BackendInstrumentation) -> None:
    """Begins the trace that was asked for, if any.

    Raises:
        OSError: it can't be opened.
    """
    if options.trace is not None:
        instrumentation.trace = TraceWriter(options.trace)


def open_checked(where: str) -> Store:
    """The store at ``where``; one line if it is damaged and begun anew.

    Raises:
        ForwardCacheError: it can't be kept there.
        OSError: it can't be opened.
    """
    from forwardcache.store import open_store

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        store = open_store(where)
    for warning in warned:
        _log.warning("%s", warning.message)
    return store


def load_backend(
    options: ModelOptions,
    recorder: HitRecorder,
    store: Store | None,
    *,
    ready: Callable[[], object] = bool,
    skip_adapters: bool = False,
) -> Any:
    """The model behind a session.

    Args:
        options: What to load.
        recorder: What the backend calls.
        store: What is under its cache.
        ready: Called before any file of the model is read.
        skip_adapters: As of ``load``.

    Raises:
        InvalidInputError: it can't be loaded.
        ForwardCacheError: the backend refuses it, with its reason.
    """
    _quiet_libraries()
    with without_collections():
        backend_type = _backend_type()
        ready()
        return _loaded(backend_type, options, recorder, store, skip_adapters=skip_adapters)


def _loaded(
    backend_type: type[HFBackend],
    options: ModelOptions,
    recorder: HitRecorder,
    store: Store | None,
    *,
    skip_adapters: bool,
) -> Any:
    policy, label = parse_identity(options.identity)
    with loading(options.model):
        return backend_type.load(
            options.model,
            adapters_to_load(options.adapters),
            device=options.device,
            dtype=options.dtype,
            allow_download=options.allow_download,
            add_special_tokens=options.special_tokens,
            chat_template=options.chat_template,
            chat_template_args=options.chat_template_args,
            tokenizer=options.tokenizer,
            add_bos_token=options.add_bos_token,
            prefix_token_id=options.prefix_token_id,
            windows=options.windows,
            instrumentation=cast(BackendInstrumentation, recorder),
            store=store,
            verify=options.verify,
            token_budget=options.token_budget,
            identity=policy,
            identity_label=label,
            keep=options.keep,
            skip_adapters=skip_adapters,
        )


def _backend_type() -> type[HFBackend]:
    try:
        import_transformers()
        from forwardcache.hf import HFBackend
    except ImportError as error:
        raise InvalidInputError(
            f"can't import torch, transformers or peft ({first_line(error)}): "
            "pip install --upgrade 'forwardcache[hf]'"
        ) from error
    _silence_transformers()
    return HFBackend


def _silence_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _quiet_libraries() -> None:
    """Keep transformers' words and bars off the terminal; has to run before it is imported.

    Threads of torch that wait without sleeping slow each other down on a busy machine.
    """
    for library in ("torch", "transformers", "peft"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=library)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
