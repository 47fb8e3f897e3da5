"""Options of the command line into a backend, every failure into one line."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from forwardcache.cli.exits import BadInputError, first_line, is_out_of_memory, say, shown
from forwardcache.cli.extras import quiet_libraries
from forwardcache.cli.hits import HitRecorder
from forwardcache.cli.kinds import FileKind, check_kind, kind_of
from forwardcache.cli.outfile import check_place
from forwardcache.errors import ForwardCacheError
from forwardcache.instrumentation import BackendInstrumentation, TraceWriter

if TYPE_CHECKING:
    from forwardcache.hf import HFBackend
    from forwardcache.hf.model.identity import Policy
    from forwardcache.store import Store

# A prompt is asked once a view, so what is found here again is only what stands twice in the input.
# A larger one would fill, and add to the memory of a long run.
CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What to load and how.

    Attributes:
        model: Folder of the model, or a hub name.
        adapter: Folder of the adapter; None without one.
        trace: Trace file; None for no trace.
        device: auto, cpu, cuda, ...
        dtype: auto, float32, bfloat16, ...
        chat_template: Whether prompts go through the tokenizer's chat template.
        special_tokens: Whether the tokenizer adds its special tokens.
        chat_template_args: What the template is given beside the messages; None for nothing.
        tokenizer: base, adapter or a folder; None chooses.
        add_bos_token: Whether texts begin with BOS; None as the tokenizer's files say.
        prefix_token: Id or text of the token before a first one; None for none.
        windows: Whether texts over the context are scored in windows.
        allow_download: Whether ``model`` may be a hub name.
        store: Path or address of the store; None without one.
        verify: Share of the hits that are computed again.
        token_budget: Most positions in a batch; None lets the device choose.
        cache_bytes: Most bytes of the values that are kept in memory; None for 64 MiB.
        identity: versions, strict or label:NAME: how changes of the weights are noticed.
    """

    model: str
    adapter: str | None = None
    trace: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    chat_template: bool = False
    special_tokens: bool = True
    allow_download: bool = False
    store: str | None = None
    verify: float = 0.0
    chat_template_args: dict[str, Any] | None = None
    tokenizer: str | None = None
    add_bos_token: bool | None = None
    token_budget: int | None = None
    cache_bytes: int | None = None
    identity: str = "versions"
    prefix_token: str | None = None
    windows: bool = False


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

    def arithmetic(self) -> dict[str, Any]:
        """What values depend on beside the weights: dtype, device, kernels, threads."""
        from forwardcache.hf.arithmetic import arithmetic_of

        return arithmetic_of(self.backend)

    def close(self) -> None:
        """Close the backend, the store and the trace."""
        self.backend.close()
        if self.store is not None:
            self.store.close()
        self.instrumentation.close()


def check_folders(options: ModelOptions) -> None:
    """Refuse a model or adapter that isn't there, before torch is imported.

    Raises:
        BadInputError: naming the option and the folder.
    """
    model = Path(options.model)
    if model.is_dir() and not (model / "config.json").is_file():
        holds_adapter = (model / "adapter_config.json").is_file()
        hint = "; it holds an adapter, which --adapter takes" if holds_adapter else ""
        raise BadInputError(f"--model {model}: there is no config.json in that folder{hint}")
    check_kind(model, FileKind.MODEL, FileKind.ADAPTER, named=f"--model {model}")
    if not model.is_dir() and not options.allow_download:
        raise BadInputError(
            f"--model {model}: there is no such folder (a hub name needs --allow-download)"
        )
    if options.adapter is not None:
        _check_adapter(Path(options.adapter))


def _check_adapter(folder: Path) -> None:
    check_kind(folder, FileKind.ADAPTER, FileKind.MODEL, named=f"--adapter {folder}")
    if not folder.is_dir():
        raise BadInputError(f"--adapter {folder}: there is no such folder")
    if not (folder / "adapter_config.json").is_file():
        is_model = kind_of(folder) is FileKind.MODEL
        hint = "; it holds a model, which --model takes" if is_model else ""
        raise BadInputError(
            f"--adapter {folder}: there is no adapter_config.json in that folder{hint}"
        )


def template_arguments(text: str | None) -> dict[str, Any] | None:
    """The JSON object that ``--chat-template-args`` was given.

    Raises:
        BadInputError: it is none.
    """
    if text is None:
        return None
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"--chat-template-args is not JSON: {first_line(error)}") from error
    if not isinstance(arguments, dict):
        raise BadInputError(f"--chat-template-args must be a JSON object, got {shown(text)}")
    return arguments


def check_trace(trace: Path | None) -> None:
    """Refuse a trace path that can't be one.

    ``TraceWriter`` makes the folders of its path. A command does not, as for ``--out``: of a
    mistyped path nothing would say where the trace went.

    Raises:
        BadInputError: it is a folder, there is none to hold it, or it can't be written.
    """
    if trace is None:
        return
    check_place(trace, f"--trace {trace}")
    if not os.access(there := trace if trace.exists() else trace.parent, os.W_OK):
        raise BadInputError(f"--trace {trace}: {there} can't be written")


def parse_identity(text: str) -> tuple[Policy, str | None]:
    """Policy and label of ``versions``, ``strict`` or ``label:NAME``.

    Raises:
        BadInputError: it is none of these.
    """
    policy, colon, label = text.partition(":")
    if policy == "label" and label:
        return "label", label
    if policy == "versions" and not colon:
        return "versions", None
    if policy == "strict" and not colon:
        return "strict", None
    raise BadInputError(f"--identity {shown(text)}: give versions, strict or label:NAME")


def load(options: ModelOptions) -> Session:
    """Load the model, then open the trace: what can't be loaded leaves none behind.

    Raises:
        BadInputError: it can't be loaded.
        ForwardCacheError: the backend refuses it, with its reason.
        OSError: the trace can't be opened.
    """
    quiet_libraries()
    instrumentation = BackendInstrumentation(
        cache_maxsize=None, cache_max_bytes=options.cache_bytes or CACHE_BYTES
    )
    recorder = HitRecorder(instrumentation)
    store = None if options.store is None else open_checked(options.store)
    backend = _load_backend(options, recorder, store)
    if options.trace is not None:
        instrumentation.trace = TraceWriter(options.trace)
    return Session(backend, recorder, instrumentation, store)


def check_store_files(where: str, named: str = "") -> None:
    """Refuse a store whose file is one of another kind; opening it would set that aside.

    Args:
        where: Path or address of the store.
        named: The option that it is of, before its file's name in the message.

    Raises:
        BadInputError: naming the file, and what takes it.
    """
    from forwardcache.store import files_of

    for path in files_of(where):
        # Beside the file itself these are SQLite's own.
        if path.is_file():
            check_kind(path, FileKind.STORE, named=f"{named}{path}")


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
        say(str(warning.message))
    return store


def _load_backend(options: ModelOptions, recorder: HitRecorder, store: Store | None) -> Any:
    backend_type = _backend_type()
    policy, label = parse_identity(options.identity)
    try:
        return backend_type.load(
            options.model,
            options.adapter,
            device=options.device,
            dtype=options.dtype,
            allow_download=options.allow_download,
            add_special_tokens=options.special_tokens,
            chat_template=options.chat_template,
            chat_template_args=options.chat_template_args,
            tokenizer=options.tokenizer,
            add_bos_token=options.add_bos_token,
            prefix_token_id=_id_or_text(options.prefix_token),
            windows=options.windows,
            instrumentation=cast(BackendInstrumentation, recorder),
            store=store,
            verify=options.verify,
            token_budget=options.token_budget,
            identity=policy,
            identity_label=label,
        )
    except ForwardCacheError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        kind = type(error).__name__
        raise BadInputError(f"can't load {options.model}: {kind}: {first_line(error)}") from error


def _id_or_text(token: str | None) -> int | str | None:
    is_id = token is not None and token.isascii() and token.isdigit()
    return int(token) if is_id and token is not None else token


def _backend_type() -> type[HFBackend]:
    try:
        from forwardcache.hf import HFBackend
    except ImportError as error:
        raise BadInputError(
            f"can't import torch, transformers or peft ({first_line(error)}): "
            "pip install --upgrade 'forwardcache[hf]'"
        ) from error
    _silence_transformers()
    return HFBackend


def _silence_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
