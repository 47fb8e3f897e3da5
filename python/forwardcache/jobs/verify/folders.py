"""Which model, adapter and tokenizer are loaded: those whose contents made the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.fingerprint import folder_fingerprint
from forwardcache.jobs.options import ModelOptions, NamedAdapter, tokenizer_folder
from forwardcache.jobs.other_models import OtherModel
from forwardcache.jobs.reasons import shown
from forwardcache.jobs.verify.options import VerifyOptions
from forwardcache.jobs.verify.recorded import Folder, Recorded
from forwardcache.jobs.views import View


def loading_of(options: VerifyOptions, recorded: Recorded, notes: list[str]) -> ModelOptions:
    """What is loaded, and how, as the rows were made.

    Args:
        options: What was asked for.
        recorded: What the run says of itself.
        notes: Takes what can't be checked, a sentence each.

    Raises:
        InvalidInputError: a folder is missing, or holds something else than what made the rows.
    """
    model = _folder("model", options.model, recorded.model, notes, is_needed=True)
    adapters = _named(options, recorded, notes) or _sole(options, recorded, notes)
    text_options: dict[str, Any] = {**recorded.text_options}
    was_given = tokenizer_folder(text_options.get("tokenizer")) is not None
    if was_given or options.tokenizer is not None:
        given, folder = options.tokenizer, recorded.tokenizer
        text_options["tokenizer"] = _folder("tokenizer", given, folder, notes, is_needed=True)
    # No GPU may be here; the recorded one of several need not be free.
    device = "cpu" if recorded.arithmetic["device"].startswith("cpu") else "auto"
    return ModelOptions(
        model=model or "",
        adapters=adapters,
        device=options.device or device,
        dtype=options.dtype or recorded.arithmetic["dtype"],
        **text_options,
    )


def _sole(options: VerifyOptions, recorded: Recorded, notes: list[str]) -> tuple[NamedAdapter, ...]:
    """The only adapter of the rows, which has no name; none where they were made without one."""
    is_needed = any(view.kind != "base" for view in _views(recorded))
    named = [each for each in options.adapters if each.name is not None]
    is_in_vain = recorded.adapter is None and not is_needed
    if wrong := named or (options.adapters if is_in_vain else ()):
        why = "without one" if is_in_vain else "with an adapter without a name"
        raise InvalidInputError(f"--adapter {wrong[0]}: the rows were made {why}")
    given = options.adapters[0].folder if options.adapters else None
    folder = _folder("adapter", given, recorded.adapter, notes, is_needed=is_needed)
    return () if folder is None else (NamedAdapter(None, folder),)


def _named(
    options: VerifyOptions, recorded: Recorded, notes: list[str]
) -> tuple[NamedAdapter, ...]:
    """Those of the rows' adapters that views are of, where adapters have names."""
    known = recorded.adapters
    if not known:
        return ()
    names = {view.adapter for view in _views(recorded) if view.kind != "base"}
    if missing := [str(name) for name in names if name not in known]:
        raise InvalidInputError(
            f"{recorded.where}: a view is of the adapter {shown(missing[0])}, and there are "
            f"{', '.join(known)}"
        )
    # One without a name is that of the rows where they have one.
    only = next(iter(known)) if len(known) == 1 else None
    given = {each.name or only: each.folder for each in options.adapters}
    if wrong := [name for name in given if name not in known]:
        raise InvalidInputError(
            f"--adapter: no row is of {shown(str(wrong[0]))}; there are rows of {', '.join(known)}"
        )
    found = []
    for name in (each for each in known if each in names):
        option = f"--adapter {name}=DIR"
        folder = _folder(
            f"adapter {name}", given.get(name), known[name], notes, is_needed=True, option=option
        )
        found.append(NamedAdapter(name, folder or ""))
    return tuple(found)


def _views(recorded: Recorded) -> list[View]:
    return [*recorded.views, *([recorded.reference] if recorded.reference else [])]


def others_of(
    options: VerifyOptions, recorded: Recorded, notes: list[str]
) -> tuple[OtherModel, ...]:
    """The other models that rows are of, in their order.

    Args:
        options: What was asked for.
        recorded: What the run says of itself.
        notes: Takes what can't be checked, a sentence each.

    Raises:
        InvalidInputError: a folder is missing, or holds something else than what made the rows; or
            a model was given that no row is of.
    """
    given = {each.name: each.folder for each in options.others}
    known = [each.view for each in recorded.others]
    for name in given.keys() - set(known):
        there = f"there are rows of {', '.join(known)}" if known else "there are none of any"
        raise InvalidInputError(f"--other {name}={given[name]}: no row is of it; {there}")
    found = []
    for each in recorded.others:
        folder = _folder(
            f"model {each.view}", given.get(each.view), Folder(each.folder, each.digest), notes,
            is_needed=True, option=f"--other {each.view}=DIR",
        )  # fmt: skip
        found.append(OtherModel(each.view, folder or ""))
    return tuple(found)


def _folder(
    name: str,
    given: str | None,
    recorded: Folder | None,
    notes: list[str],
    *,
    is_needed: bool,
    option: str | None = None,
) -> str | None:
    """The folder to load, whose contents are those that were recorded."""
    option = option or f"--{name} DIR"
    if given is None and recorded is None:
        if is_needed:
            raise InvalidInputError(f"nothing says which {name} made the rows: give {option}")
        return None
    path = given or (recorded.path if recorded is not None else "")
    if recorded is not None and recorded.digest is None and given is None:
        raise InvalidInputError(
            f"the rows are of the {name} {path}, which was no folder: give {option} with its files"
        )
    if not Path(path).is_dir():
        hint = "" if given is not None else f"; give {option} with the same contents elsewhere"
        raise InvalidInputError(f"there is no folder {path}, the {name} of the rows{hint}")
    if recorded is None or recorded.digest is None:
        notes.append(f"no digest of the {name} is recorded: {path} is taken for it")
        return path
    if (found := folder_fingerprint(Path(path))) != recorded.digest:
        raise InvalidInputError(
            f"the {name} in {path} is not the one that made the rows: digest {found[:12]}…, "
            f"recorded {recorded.digest[:12]}…; give {option} with the one that is"
        )
    return path
