"""Which tokenizer reads the text: the model's, the adapter's own, or another; with BOS or not.

Who trains an adapter with added tokens or another chat template saves the tokenizer next to it, and
the adapter means nothing under another one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from transformers.utils.hub import LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE, cached_file

from forwardcache.errors import InvalidInputError, ModelLoadError
from forwardcache.hf.text.tokenizer_file import warn_of_other_tokens

_log = logging.getLogger("forwardcache")

# Any of these makes a folder one with a tokenizer; a configuration alone has no vocabulary.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")

_OF_TOKENIZERS = ("tokenizer", "special_tokens", "added_tokens", "merges", "vocab", "chat_template",
                  "additional_chat_templates")  # fmt: skip

# Two, since a template may also frame one text by its content.
_PROBES = ("a", "hello world")


def load_tokenizer(
    path: str, *, add_bos_token: bool | None = None, allow_download: bool = False
) -> Any:
    """The tokenizer in ``path``.

    Args:
        path: A folder, or with ``allow_download`` a name on the hub.
        add_bos_token: Whether texts begin with BOS; None as the files say.
        allow_download: Whether the hub may be asked.

    Raises:
        InvalidInputError: the tokenizer can't do what ``add_bos_token`` asks.
        ModelLoadError: it has no tokens but special ones.
    """
    _check_setting(add_bos_token)
    given: dict[str, Any] = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
    tokenizer = _read(path, local_files_only=not allow_download, **given)
    _check_vocabulary(path, tokenizer)
    warn_of_other_tokens(path, tokenizer)
    if add_bos_token is not None:
        _check_bos(path, tokenizer, add_bos_token)
    return tokenizer


def choose_tokenizer(path: str, adapter: str | None, wanted: str | None, **options: Any) -> Any:
    """The tokenizer for the model in ``path`` with the adapter in the folder ``adapter``.

    Args:
        path: Folder of the model.
        adapter: Folder of the adapter; None without one.
        wanted: "base", "adapter" or a folder; None for the adapter's where that folder has one that
            reads or frames text in another way, else the model's.
        **options: Those of ``load_tokenizer``.

    Raises:
        InvalidInputError: "adapter" without one, or without a tokenizer in its folder.
    """
    if wanted == "adapter":
        if adapter is None or not _has_tokenizer(adapter):
            where = "there is no adapter" if adapter is None else f"{adapter} holds none"
            raise InvalidInputError(f'tokenizer="adapter" needs one in the adapter: {where}')
        return load_tokenizer(adapter, **options)
    if wanted not in (None, "base"):
        if not Path(str(wanted)).is_dir():
            raise InvalidInputError(
                f'tokenizer must be "base", "adapter" or a folder, got {wanted!r}'
            )
        return load_tokenizer(str(wanted), **options)
    base = load_tokenizer(path, **options)
    if wanted == "base" or adapter is None or not _has_tokenizer(adapter):
        return base
    return _own_or(base, adapter, options)


def choose_for_all(path: str, adapters: Sequence[str], wanted: str | None, **options: Any) -> Any:
    """The one tokenizer with which all views of a model with these adapters read.

    Args:
        path: Folder of the model.
        adapters: Folders of the adapters.
        wanted: As of ``choose_tokenizer``.
        **options: Those of ``load_tokenizer``.

    Raises:
        InvalidInputError: the adapters bring tokenizers that differ, and none is asked for.
    """
    if wanted not in (None, "adapter"):
        return choose_tokenizer(path, None, wanted, **options)
    distinct = {_files(folder): folder for folder in reversed(adapters)}
    first, *others = reversed(distinct.values()) if distinct else [None]
    chosen = choose_tokenizer(path, first, wanted, **options)
    for other in others:
        if differing := _differing(chosen, choose_tokenizer(path, other, wanted, **options)):
            raise InvalidInputError(
                f"the adapters {first} and {other} read with tokenizers that differ (other "
                f'{", ".join(differing)}): say which one all views read with, by tokenizer="base" '
                "or a folder"
            )
    return chosen


def _files(folder: str) -> bytes:
    """A digest of all that a folder has of a tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*")):
        is_one = path.name in _VOCABULARIES or path.name.startswith(_OF_TOKENIZERS)
        if is_one and path.is_file():
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


def with_bos(tokenizer: Any, add_bos_token: bool | None) -> Any:
    """A tokenizer as ``tokenizer``, which begins texts with BOS, or doesn't.

    Args:
        tokenizer: Is left as it is.
        add_bos_token: Whether texts begin with BOS (where there is one), and have nothing else
            added; None for ``tokenizer`` itself.

    Raises:
        InvalidInputError: it would have to be loaded again, and its files aren't there or don't
            give this one.
    """
    _check_setting(add_bos_token)
    if add_bos_token is None or _frames_with(tokenizer, add_bos_token):
        return tokenizer
    folder = str(getattr(tokenizer, "name_or_path", ""))
    if not _is_in(folder, tokenizer):
        raise InvalidInputError(
            f"add_bos_token={add_bos_token} would change the tokenizer, and this one can't be "
            "loaded again with it: give the folder of the model in place of a backend"
        )
    return _read(folder, local_files_only=True, add_bos_token=add_bos_token)


def _read(path: str, *, local_files_only: bool, **options: Any) -> Any:
    where: dict[str, Any] = {"local_files_only": local_files_only}
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
        path, trust_remote_code=False, **where, **options
    )
    if getattr(tokenizer, "chat_template", None) is None:
        # Processors for images and text kept the template in a file that tokenizers don't read.
        with suppress(OSError):
            file = cached_file(path, LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE, **where)
            tokenizer.chat_template = json.loads(Path(str(file)).read_bytes())["chat_template"]
    return tokenizer


def _own_or(base: Any, adapter: str, options: dict[str, Any]) -> Any:
    try:
        own = load_tokenizer(adapter, **options)
    except InvalidInputError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        _log.warning(
            "the tokenizer in %s can't be loaded, the model's is used: %s", adapter, reason
        )
        return base
    differing = _differing(base, own)
    if not differing:
        return base
    _log.warning(
        "the adapter %s brings a tokenizer of its own, which is used for all views (other %s); "
        'tokenizer="base" takes the model\'s',
        adapter,
        ", ".join(differing),
    )
    return own


def _check_setting(add_bos_token: bool | None) -> None:
    if add_bos_token is not None and not isinstance(add_bos_token, bool):
        raise InvalidInputError(f"add_bos_token must be True, False or None, got {add_bos_token!r}")


def _check_vocabulary(path: str, tokenizer: Any) -> None:
    """Refuses what some versions of transformers make where a folder holds no tokenizer."""
    special = set(tokenizer.all_special_ids)
    if len(tokenizer) <= len(special):
        kind = type(tokenizer).__name__
        raise ModelLoadError(
            f"no tokenizer in {path}: {kind} has its {len(special)} special tokens and no others"
        )


def _is_in(folder: str, tokenizer: Any) -> bool:
    """Whether ``tokenizer`` is the one that ``folder`` holds."""
    if not folder or not Path(folder).is_dir():
        return False
    try:
        return not _differing(load_tokenizer(folder), tokenizer)
    except Exception:
        # Files that were there and are broken by now; transformers raises nearly anything.
        return False


def _has_tokenizer(folder: str) -> bool:
    return any((Path(folder) / name).is_file() for name in _VOCABULARIES)


def _differing(one: Any, other: Any) -> list[str]:
    """What two tokenizers have of their own that decides tokens or a prompt's text."""
    pairs = zip(_described(one), _described(other), strict=True)
    return [name for (name, left), (_, right) in pairs if left != right]


def _described(tokenizer: Any) -> Iterator[tuple[str, Any]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield "tokens", (type(tokenizer).__name__, tokenizer.get_vocab())
    else:
        # Every call sets the last two anew.
        yield "tokens", json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    yield "chat template", getattr(tokenizer, "chat_template", None)
    yield "BOS or EOS", (tokenizer.bos_token_id, tokenizer.eos_token_id)


def _check_bos(path: str, tokenizer: Any, add: bool) -> None:
    bos = tokenizer.bos_token_id
    begins = bos is not None and _ids(tokenizer, _PROBES[0])[:1] == [bos]
    if begins != add:
        reason = "has no BOS token" if bos is None else "takes no notice of it"
        raise InvalidInputError(f"add_bos_token={add}: the tokenizer in {path} {reason}")


def _frames_with(tokenizer: Any, add: bool) -> bool:
    bos = [tokenizer.bos_token_id] if add and tokenizer.bos_token_id is not None else []
    return all(
        _ids(tokenizer, text) == bos + _ids(tokenizer, text, add_special_tokens=False)
        for text in _PROBES
    )


def _ids(tokenizer: Any, text: str, **options: Any) -> list[int]:
    return list(
        tokenizer(text, truncation=False, padding=False, verbose=False, **options).input_ids
    )
