"""What a request to the engine asks for: each option honoured, or refused by its name."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forwardcache.errors import InvalidInputError
from forwardcache.hf.stream.sample import SamplingOptions

# Options that change nothing as long as they have this value; another one isn't served.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "length_penalty": (1.0,),
    "include_stop_str_in_output": (False, True),
}
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_STOPPING = ("max_tokens", "min_tokens", "stop_token_ids", "stop_token_ids_hidden", "ignore_eos")
_SEEDS = range(-(2**63), 2**64)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's options, checked.

    Attributes:
        token_ids: The prompt.
        sampling: How tokens are drawn.
        max_tokens: Most tokens wanted; None for as many as fit.
        min_tokens: Tokens before which no stop token is drawn.
        stop_ids: Tokens that end the stream and are its last.
        hidden_ids: Tokens that end the stream and aren't in it.
        ignores_eos: Whether an end-of-text token ends nothing.
    """

    token_ids: tuple[int, ...]
    sampling: SamplingOptions
    max_tokens: int | None
    min_tokens: int
    stop_ids: frozenset[int]
    hidden_ids: frozenset[int]
    ignores_eos: bool

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Asked:
        """From a request.

        Raises:
            InvalidInputError: something in it is of the wrong type, out of range or not served.
        """
        if not isinstance(request, Mapping):
            raise InvalidInputError(f"a request must be a mapping, got {request!r}")
        if request.get("token_ids") is None:
            raise InvalidInputError("the request has no token_ids")
        sampling = _options(request, "sampling_options", _SAMPLING)
        stopping = _options(request, "stop_conditions", _STOPPING)
        _options(request, "output_options", ("skip_special_tokens", "formatted_prompt"))
        eos = stopping.get("ignore_eos", False)
        if not isinstance(eos, bool):
            raise InvalidInputError(f"ignore_eos must be true or false, got {eos!r}")
        return cls(
            token_ids=_ids("token_ids", request["token_ids"]),
            sampling=_sampling(sampling),
            max_tokens=_whole("max_tokens", stopping.get("max_tokens"), least=1),
            min_tokens=_whole("min_tokens", stopping.get("min_tokens")) or 0,
            stop_ids=frozenset(_ids("stop_token_ids", stopping.get("stop_token_ids", ()))),
            hidden_ids=frozenset(
                _ids("stop_token_ids_hidden", stopping.get("stop_token_ids_hidden", ()))
            ),
            ignores_eos=eos,
        )


def _options(request: Mapping[str, Any], group: str, served: Iterable[str]) -> dict[str, Any]:
    """The options of a group that were set; one that would be dropped is refused."""
    given = request.get(group)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"{group} must be a mapping, got {given!r}")
    options = {name: value for name, value in given.items() if value is not None}
    for name, value in options.items():
        if name not in served and not _changes_nothing(name, value):
            neutral = _NEUTRAL.get(name)
            allowed = f" (only {neutral[0]})" if neutral else ""
            raise InvalidInputError(f"{group}: {name}={value!r} isn't served{allowed}")
    return {name: value for name, value in options.items() if name in served}


def _changes_nothing(name: str, value: Any) -> bool:
    is_empty = isinstance(value, str | list | tuple | dict) and not value
    return value is False or is_empty or value in _NEUTRAL.get(name, ())


def _sampling(options: Mapping[str, Any]) -> SamplingOptions:
    numbers = {
        name: _number(name, value)
        for name, value in options.items()
        if name not in ("seed", "top_k")
    }
    seed = _whole("seed", options.get("seed"), least=_SEEDS.start) or 0
    if seed not in _SEEDS:
        raise InvalidInputError(f"seed must be in {_SEEDS.start}..{_SEEDS.stop - 1}, got {seed}")
    # -1 as well as 0 is how others say "all".
    top_k = max(_whole("top_k", options.get("top_k"), least=-1) or 0, 0)
    return SamplingOptions.of({**numbers, "seed": seed, "top_k": top_k})


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, str | bytes | bool) and math.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidInputError(f"{name} must be a finite number, got {value!r}")


def _whole(name: str, value: Any, *, least: int = 0) -> int | None:
    if value is None:
        return None
    number = _index(value)
    if number is None or number < least:
        raise InvalidInputError(f"{name} must be a whole number, at least {least}, got {value!r}")
    return number


def _index(value: Any) -> int | None:
    """A whole number of any class; None for what is none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _ids(name: str, given: Any) -> tuple[int, ...]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise InvalidInputError(f"{name} must be a list of token ids, got {given!r}")
    ids = [(each, _index(each)) for each in given]
    for each, index in ids:
        if index is None:
            raise InvalidInputError(f"{name} must be a list of token ids, but has {each!r}")
    return tuple(index for _, index in ids if index is not None)
