"""Options of the harness's model: what goes on to ``HFBackend.load``, and what can't be met.

The harness hands on whatever its users write into ``--model_args``, and what is written for its own
``hf`` class should either do the same here or be refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lm_eval.models.huggingface import HFLM

from forwardcache.errors import InvalidInputError
from forwardcache.hf import HFBackend

# What is so in any case, or gives the same values either way.
_MET = (("backend", "causal"), ("logits_cache", True), ("logits_cache", False))

# Named another way here, so that the refusal can say how.
_INSTEAD = {
    "chat_template": "the harness's --apply_chat_template",
    "adapter": "peft",
    "revision": "pretrained=FOLDER of that revision",
}

_OWN = ("add_special_tokens", "chat_template", "chat_template_args", "prefix_token_id", "windows")
"""Options of the backend that the harness decides itself, since it makes the tokens."""


def loading_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``options`` that ``HFBackend.load`` takes.

    Raises:
        InvalidInputError: another one asks for something that isn't done here; it is named.
    """
    kind: Any = HFLM
    allowed, theirs = _allowed(), inspect.signature(kind.__init__).parameters
    taken: dict[str, Any] = {}
    for name, value in options.items():
        if name in allowed:
            taken[name] = value
        elif not (name in theirs and _asks_nothing(name, value, theirs[name].default)):
            raise InvalidInputError(_refusal(name, value, allowed))
    return taken


def refuse_with_backend(options: Mapping[str, Any]) -> None:
    """Refuses options of loading where a backend is given, which is loaded already.

    Raises:
        InvalidInputError: naming the first.
    """
    for name, value in options.items():
        if value is not None:
            raise InvalidInputError(
                f"{name}={value!r} is for loading a model: give it to the backend in its place"
            )


def _asks_nothing(name: str, value: Any, default: Any) -> bool:
    """Whether it asks for what is done in any case."""
    is_off = value is None or (value is False and not default)
    return is_off or value == default or (name, value) in _MET


def _refusal(name: str, value: Any, allowed: list[str]) -> str:
    instead = f" (use {_INSTEAD[name]})" if name in _INSTEAD else ""
    return (
        f"the model forwardcache doesn't take {name}={value!r}{instead}; "
        f"it takes {', '.join(sorted(allowed))}"
    )


def _allowed() -> list[str]:
    kind: Any = HFBackend
    both = [inspect.signature(each).parameters.values() for each in (kind.load, kind.__init__)]
    named = {each.name for one in both for each in one if each.kind is each.KEYWORD_ONLY}
    # The class's own parameters never come here.
    return sorted(named.difference(_OWN, {"adapter", "device", "add_bos_token"}))
