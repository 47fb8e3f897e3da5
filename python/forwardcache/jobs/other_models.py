"""``--other NAME=DIR``: models that are held against the reference, and how they are loaded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forwardcache.adapter_names import check_names
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.reasons import loading, shown

if TYPE_CHECKING:
    from forwardcache.hf import HFBackend


@dataclass(frozen=True, slots=True)
class OtherModel:
    """A model that is held against the reference.

    Attributes:
        name: What its view is called.
        folder: Where it is.
    """

    name: str
    folder: str

    def __str__(self) -> str:
        return f"{self.name}={self.folder}"


def parse_others(words: Sequence[str], *, taken: Collection[str] = ()) -> tuple[OtherModel, ...]:
    """What each ``--other`` was given.

    Args:
        words: ``NAME=DIR`` each, split at the first ``=``.
        taken: Names that adapters have.

    Raises:
        InvalidInputError: a name is missing, is none, stands twice or is an adapter's.
    """
    others = tuple(map(_parsed, words))
    check_names([each.name for each in others], what="model")
    for each in others:
        if each.name in taken:
            raise InvalidInputError(f"--other {each}: an adapter has that name")
    return others


def _parsed(word: str) -> OtherModel:
    name, _, folder = word.partition("=")
    if not folder:
        raise InvalidInputError(f"--other {shown(word)}: give a name and a folder, NAME=DIR")
    return OtherModel(name, folder)


def check_other_folders(others: Sequence[OtherModel], *, allow_download: bool) -> None:
    """Refuse a model that isn't there, before torch is imported.

    Args:
        others: The models.
        allow_download: Whether a name on the hub may be meant.

    Raises:
        InvalidInputError: naming the model and what its folder lacks.
    """
    for each in others:
        folder = Path(each.folder)
        if not folder.is_dir():
            if allow_download:
                continue
            raise InvalidInputError(f"--other {each}: there is no such folder")
        if not (folder / "config.json").is_file():
            is_adapter = (folder / "adapter_config.json").is_file()
            hint = "; it holds an adapter, which --adapter takes" if is_adapter else ""
            raise InvalidInputError(f"--other {each}: there is no config.json in that folder{hint}")


def check_other_vocabulary(backend: Any, other: OtherModel, loading: ModelOptions) -> None:
    """Refuse a model of another vocabulary by its tokenizer, before any weight is read.

    Args:
        backend: The reference's.
        other: The other model.
        loading: How the reference was loaded.

    Raises:
        ForwardCacheError: its tokenizer can't be loaded, or has another token under some id.
    """
    from forwardcache.hf.others.vocabulary import check_tokens, tokenizer_of

    found = tokenizer_of(other.folder, allow_download=loading.allow_download)
    check_tokens(backend.tokenizer, found)


def load_other(backend: Any, other: OtherModel, options: ModelOptions) -> HFBackend:
    """Another model, which reads texts as the reference does.

    Args:
        backend: The reference's, of which only the tokenizer is asked.
        other: The other model.
        options: How the reference was loaded.

    Raises:
        ForwardCacheError: it can't be loaded, or not be compared.
        MemoryError: memory is too small for it.
    """
    from forwardcache.hf import HFBackend

    # The reference's own, since what it wrote is what the other model reads.
    template = backend.tokenizer.get_chat_template() if options.chat_template else False
    with loading("it"):
        return HFBackend.load(
            other.folder,
            device=options.device,
            dtype=options.dtype,
            allow_download=options.allow_download,
            add_bos_token=options.add_bos_token,
            add_special_tokens=options.special_tokens,
            chat_template=template,
            chat_template_args=options.chat_template_args,
            prefix_token_id=options.prefix_token_id,
            windows=options.windows,
            token_budget=options.token_budget,
            # Nothing is asked twice of it.
            cache_maxsize=1,
        )
