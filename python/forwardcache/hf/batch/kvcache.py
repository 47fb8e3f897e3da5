"""Under which name a model takes its cache of keys and values, and whether it uses it.

transformers calls that argument ``past_key_values`` up to 5.23 and ``cache`` from 5.24 on. Nearly
every model also takes any other word into its ``**kwargs``, where a cache under a wrong name is
lost unseen: each step then goes on as if nothing stood before it. So the name is read from the
model's own ``forward``, and whether the cache has grown is looked at after each use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from forwardcache.errors import UnsupportedModelError

_NAMES = ("cache", "past_key_values")


def cache_argument(causal_lm: Any) -> str | None:
    """What the model's ``forward`` calls the cache; None if it takes none.

    A ``forward`` that hands on whatever it gets (a wrapper on the object, a subclass) is looked
    through, to the one behind it that names its arguments.
    """
    return named_argument(causal_lm, *_NAMES)


def named_argument(causal_lm: Any, *names: str) -> str | None:
    """The first of ``names`` that the model's ``forward``, or one that it hands on to, has."""
    for forward in _forwards(causal_lm):
        parameters = inspect.signature(forward).parameters
        found = [name for name in names if name in parameters]
        if found:
            return found[0]
        kinds = {parameter.kind for parameter in parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return None
    return None


def needed_cache_argument(causal_lm: Any) -> str:
    """``cache_argument`` where there is no other way.

    Raises:
        UnsupportedModelError: the model takes no cache of keys and values.
    """
    name = cache_argument(causal_lm)
    if name is None:
        raise UnsupportedModelError(
            f"{type(causal_lm).__name__}.forward takes no {' or '.join(_NAMES)}: it keeps no keys"
            " and values that could be given back to it"
        )
    return name


def check_filled(cache: Any, tokens: int, causal_lm: Any) -> None:
    """Refuses a model that was given a cache and didn't put its keys and values there.

    Args:
        cache: As it is after the forward.
        tokens: Positions that it has to hold by now.
        causal_lm: The transformers model itself.

    Raises:
        UnsupportedModelError: it holds another number.
    """
    held = int(cache.get_seq_length())
    if held != tokens:
        raise UnsupportedModelError(
            f"{type(causal_lm).__name__} leaves {held} positions in a cache of keys and values"
            f" that should hold {tokens}: it doesn't use the cache that it is given"
        )


def _forwards(causal_lm: Any) -> Iterator[Callable[..., Any]]:
    """The model's ``forward`` and those that it may hand its arguments on to."""
    yield causal_lm.forward
    for kind in type(causal_lm).__mro__:
        # Torch's own only says that there is none.
        if "forward" in vars(kind) and kind is not nn.Module:
            yield vars(kind)["forward"]
