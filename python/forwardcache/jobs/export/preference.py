"""A prompt with two completions, as tokens: those that TRL's ``DPOTrainer`` reads.

Followed to the token, also where another cut would be as good: a sum over other tokens is no
reference for the trainer's own.

Source: ``DPOTrainer._prepare_dataset`` and ``DataCollatorForPreference`` of TRL 1.16.0
(trl/trainer/dpo_trainer.py), ``_tokenize`` and ``common_prefix_length`` (trl/data_utils.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.reasons import shown

CHOSEN, REJECTED = "ref_chosen_logps", "ref_rejected_logps"
COMPLETIONS = ("chosen", "rejected")
_IMAGES = ("image", "images")

Item = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens that are read, and those behind them that are scored."""


@dataclass(frozen=True, slots=True)
class Preference:
    """The tokens of one row.

    Attributes:
        chosen: What is scored of the chosen completion.
        rejected: What is scored of the rejected one.
        cut: How many of the two were cut at the longest length.
        is_merged: Whether the prompt's last tokens are others once a completion follows.
    """

    chosen: Item
    rejected: Item
    cut: int
    is_merged: bool


def lacking(fields: Mapping[str, Any]) -> str | None:
    """Why a row is no prompt with two completions; None if it is one.

    Args:
        fields: ``prompt`` and the row's other fields.
    """
    for name in COMPLETIONS:
        if fields.get(name) is None:
            return f'no "{name}"'
    for name in (CHOSEN, REJECTED):
        if name in fields:
            return f'"{name}" is there already'
    if there := [name for name in _IMAGES if fields.get(name) is not None]:
        return f'"{there[0]}": rows with images are not read'
    return _unfit(fields)


def _unfit(fields: Mapping[str, Any]) -> str | None:
    """Why the three are no three texts or three lists of messages."""
    kinds = {name: type(fields[name]) for name in ("prompt", *COMPLETIONS)}
    if not (set(kinds.values()) == {str} or set(kinds.values()) == {list}):
        named = ", ".join(
            f"{name} is {_KINDS.get(kind, 'neither')}" for name, kind in kinds.items()
        )
        return f"all three have to be texts, or lists of messages: {named}"
    for name in COMPLETIONS:
        if not fields[name]:
            return f'"{name}" is empty'
    if fields["chosen"] == fields["rejected"]:
        return '"chosen" and "rejected" are equal'
    messages = [turn for name in kinds for turn in fields[name]] if kinds["prompt"] is list else []
    if strange := [turn for turn in messages if not (isinstance(turn, dict) and "role" in turn)]:
        return f"a message has to be an object with role and content, got {shown(str(strange[0]))}"
    return None if fields["prompt"] or kinds["prompt"] is str else '"prompt" has no message'


_KINDS: dict[type, str] = {str: "a text", list: "a list"}


def tokens_of(
    tokenizer: Any,
    fields: Mapping[str, Any],
    arguments: Mapping[str, Any],
    *,
    max_length: int,
) -> Preference:
    """The tokens of a row that ``lacking`` has nothing against.

    Args:
        tokenizer: The model's.
        fields: The row's.
        arguments: What the chat template is given in addition.
        max_length: Most tokens of prompt and completion.

    Raises:
        InvalidInputError: the tokenizer or the template can't read it, the prompt alone has that
            many tokens, or no token of a completion is scored.
    """
    prompt, *pairs = _read(tokenizer, fields, arguments)
    # One length for both, though each completion may meet the prompt in its own way.
    begin = min(_common(prompt, pair) for pair in pairs)
    if begin >= max_length:
        raise InvalidInputError(
            f"the prompt has {begin:,} tokens, which leaves none of {max_length:,} (--max-length) "
            "for a completion"
        )
    items = [
        _item(pair[:max_length], begin, name) for name, pair in zip(COMPLETIONS, pairs, strict=True)
    ]
    cut = sum(len(pair) > max_length for pair in pairs)
    return Preference(items[0], items[1], cut, begin < len(prompt))


def _item(ids: Sequence[int], begin: int, name: str) -> Item:
    # Of a first token that nothing stands before there is no log-probability: TRL leaves it out.
    begin = max(begin, 1)
    if len(ids) <= begin:
        raise InvalidInputError(f'no token of "{name}" can be scored')
    return tuple(ids[:begin]), tuple(ids[begin:])


def _read(
    tokenizer: Any, fields: Mapping[str, Any], arguments: Mapping[str, Any]
) -> list[list[int]]:
    """Tokens of the prompt, and of the prompt with each completion."""
    from forwardcache.hf.text.item import blamed_on_item

    prompt, completions = fields["prompt"], [fields[name] for name in COMPLETIONS]
    with blamed_on_item("can't turn the row into tokens"):
        if isinstance(prompt, str):
            end = _end(tokenizer)
            ended = [one if one.endswith(end) else one + end for one in completions]
            return [
                list(tokenizer(text=text, verbose=False)["input_ids"])
                for text in (prompt, *(prompt + one for one in ended))
            ]
        given = {**arguments, "tools": _tools(fields), **(fields.get("chat_template_kwargs") or {})}
        return [
            _chat(tokenizer, prompt, add_generation_prompt=True, **given),
            *(_chat(tokenizer, prompt + one, **given) for one in completions),
        ]


def _chat(tokenizer: Any, messages: Sequence[Any], **given: Any) -> list[int]:
    written = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **given)
    return list(written["input_ids"])


def _tools(fields: Mapping[str, Any]) -> Any:
    tools = fields.get("tools")
    return json.loads(tools) if isinstance(tools, str) else tools


def _end(tokenizer: Any) -> str:
    if not (end := tokenizer.eos_token):
        raise InvalidInputError(
            "the tokenizer has no EOS token, which a completion that is a text ends with"
        )
    return str(end)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
