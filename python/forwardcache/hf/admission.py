"""``HFBackend.admission``: what was measured of a model, and what it is let do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from forwardcache.hf.batch.ways import Batches
from forwardcache.hf.scoring.joint import joint_notes
from forwardcache.hf.scoring.scorer import Scorer
from forwardcache.hf.spec import BASE
from forwardcache.hf.stream.way import known_way

Streams = Literal["joined", "alone", "refused"]


@dataclass(frozen=True, slots=True)
class Admission:
    """What a model is let do, as a few short forwards past cache and trace have shown.

    Everything but one row at a time is held to that before it is used; where it gives other values,
    the next plainer way is taken.

    Attributes:
        causal: Whether a token's logits are free of what follows it. If not, only operations that
            ask for what comes after the last token are let through.
        batches: How rows of several lengths share a forward: end to end (``packed``), filled up on
            the right (``padded``), with rows of their own length (``equal_lengths``), or never
            (``single``).
        prefixes: Whether rows share the computation of a prefix.
        streams: Whether ``HFEngine`` decodes streams together (``joined``) or each by itself
            (``alone``), or not at all (``refused``).
        notes: Why it is not more; and once it was measured, whether views of its adapter share
            forwards of short prompts.
    """

    causal: bool
    batches: Batches
    prefixes: bool
    streams: Streams
    notes: tuple[str, ...]


def admission_of(scorer: Scorer) -> Admission:
    """What the model as it stands is let do; measures what hasn't been yet."""
    own = scorer.own_specs()
    spec = own[0] if len(own) == 1 else BASE
    ways = scorer.ways_in(spec)
    prefixes = scorer.run_in(spec, lambda _encoder: scorer.runner.shares_exactly())
    way = scorer.run_in(spec, lambda _: known_way(ways, scorer.model, scorer.causal_lm))
    notes = (*ways.notes, way.note) if way.note and ways.causal else tuple(ways.notes)
    return Admission(
        ways.causal, ways.batches, bool(prefixes), way.kind, (*notes, *joint_notes(scorer))
    )
