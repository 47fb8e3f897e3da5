"""A note in a store: what is known of a model, and under which conditions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from forwardcache.hf.spec import ViewSpec
from forwardcache.hf.stored import Place, Tokens
from forwardcache.jobs.recall.sources import Sources

_FORMAT = 3
_MOST_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Note:
    """What a run learnt of a model.

    Attributes:
        contents: Digest of the folders.
        surroundings: Where the run was.
        sources: What it had imported.
        options: How text becomes tokens, as keys have it.
        places: By view: where its values are.
        norms: By view: the norm of what it adds to the weights, as far as anybody asked.
        floors: By what was asked for: how far base is from itself in other batches, as fields of
            ``NoiseFloor``.
        facts: What else of the model a run asks for: JSON values.
        said: What was said while it was loaded.
    """

    contents: str
    surroundings: dict[str, Any]
    sources: Sources
    options: bytes
    places: dict[ViewSpec, Place]
    norms: dict[ViewSpec, float | None]
    floors: dict[str, dict[str, Any]]
    facts: dict[str, Any]
    said: list[str]

    def packed(self) -> bytes:
        """The note as bytes."""
        plain = {
            "format": _FORMAT,
            "contents": self.contents,
            "surroundings": self.surroundings,
            "sources": asdict(self.sources),
            "options": self.options.hex(),
            "places": [
                [asdict(spec), asdict(place.runs), place.model.hex()]
                for spec, place in self.places.items()
            ],
            "norms": [[asdict(spec), norm] for spec, norm in self.norms.items()],
            "floors": self.floors,
            "facts": self.facts,
            "said": self.said,
        }
        return json.dumps(plain).encode("ascii")


def unpacked(content: bytes | None) -> Note | None:
    """The note in ``content``; None if there is none that this version knows."""
    if content is None or len(content) > _MOST_BYTES:
        return None
    try:
        plain = json.loads(content)
        if plain["format"] != _FORMAT:
            return None
        sources = plain["sources"]
        return Note(
            contents=str(plain["contents"]),
            surroundings=dict(plain["surroundings"]),
            sources=Sources(
                dict(sources["roots"]),
                tuple(map(str, sources["paths"])),
                str(sources["looks"]),
                str(sources["contents"]),
            ),
            options=bytes.fromhex(plain["options"]),
            places={
                ViewSpec(**spec): Place(ViewSpec(**runs), bytes.fromhex(model))
                for spec, runs, model in plain["places"]
            },
            norms={ViewSpec(**spec): norm for spec, norm in plain["norms"]},
            floors={key: dict(floor) for key, floor in plain["floors"].items()},
            facts=dict(plain["facts"]),
            said=list(map(str, plain["said"])),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Whole, and yet no note of ours: somebody else wrote it.
        return None


def packed_tokens(tokens: Sequence[Tokens]) -> bytes:
    """What is known of the tokens of some items, in their order."""
    rows = [[each.read, each.scored, int(each.spans_boundary)] for each in tokens]
    return json.dumps(rows, separators=(",", ":")).encode("ascii")


def unpacked_tokens(content: bytes | None, items: Sequence[Any]) -> dict[Any, Tokens] | None:
    """The same by item; None if it is not about so many."""
    if content is None or len(content) > _MOST_BYTES:
        return None
    try:
        rows = [Tokens(int(read), int(scored), bool(spans))
                for read, scored, spans in json.loads(content)]  # fmt: skip
    except (ValueError, TypeError, RecursionError):
        return None
    return dict(zip(items, rows, strict=True)) if len(rows) == len(items) else None


def key_of(*words: Any) -> bytes:
    """32 bytes for JSON values."""
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode("ascii")).digest()


__all__ = ["Note", "key_of", "packed_tokens", "unpacked", "unpacked_tokens"]
