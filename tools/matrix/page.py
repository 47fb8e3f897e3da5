"""``docs/models.md``, made from verdicts alone, and the words and counts that a run prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from tools.matrix.examine import PARTS
from tools.matrix.verdict import Finding, Verdict

MOST_STREAMS_REFUSED = 5
LIBRARIES = ("transformers", "torch", "peft")
OUTCOMES = ("ok", "refused", "WRONG", "crash", "none")

HEAD = """\
# Models and adapters

Which models are scored exactly, and how: written by `make matrix WRITE=1` alone, from what it has
seen. Each row is a model with random weights and a few layers, made by the rules of its type's
configuration and nothing else, so a row is about a type's code and not about one model's weights.

Every value is compared with the model's own, from one plain forward a prompt; a case fails from
0.001 nats a token. **Scoring** is every operation, alone and in batches of several lengths, with
common prefixes and many completions, with room for few logits, up to the end of the context, and
with other tokens in place of later ones. **LoRA** is an adapter on all linear layers: the views
`base` and `ft`. `generate` of a view and **streams** of `HFEngine`, one alone and five of several
lengths joined, are compared with a loop that runs all tokens at each step and takes the likeliest.

- *ok*: right everywhere;
- *refused*: one `UnsupportedModelError`, which gives the reason;
- *none*: nothing to compare with, since PEFT has no such adapter for this model.

What a model is let do is measured on a few short rows before its first value, and told by
`HFBackend.admission`, whose words the column *rows run* has.
"""


def page(models: Sequence[Verdict], adapters: Sequence[Verdict]) -> str:
    """The whole page."""
    groups = {
        "Types": ("type", "Each causal type of the installed transformers."),
        "Other settings": ("setting", "Types from above, with settings that change what they do."),
        "Images and text": ("images", "Models of images, asked about text alone."),
    }
    lines = [HEAD, *_circumstances(), "", "## Counts", "", *counts(models), ""]
    for title, (group, words) in groups.items():
        rows = sorted((each for each in models if each.group == group), key=lambda one: one.name)
        lines += [f"## {title}", "", words, "", *_models(rows), ""]
    lines += ["## Adapters", "", *_adapters(adapters)]
    return "\n".join(lines).rstrip() + "\n"


def _circumstances() -> Iterator[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    yield f"Seen on {datetime.now(UTC):%Y-%m-%d} with {versions}; float32, on a CPU."


def counts(models: Sequence[Verdict]) -> Iterator[str]:
    """A table: how many types came to what, by what was checked."""
    types = [each for each in models if each.group == "type"]
    built = [each for each in types if not each.not_built]
    tallies: dict[str, Counter[str]] = {
        part: Counter(each.parts.get(part, Finding()).outcome for each in built) for part in PARTS
    }
    yield f"{len(types)} types, {len(built)} built."
    yield ""
    yield "| outcome | scoring | LoRA | `generate` | streams |"
    yield "|---|---:|---:|---:|---:|"
    for outcome in OUTCOMES:
        cells = " | ".join(str(tallies[part][outcome]) for part in PARTS)
        yield f"| {outcome} | {cells} |"


def _models(rows: Iterable[Verdict]) -> Iterator[str]:
    yield "| model | scoring | rows run | LoRA | `generate` | streams | largest error | reason |"
    yield "|---|---|---|---|---|---|---:|---|"
    for each in rows:
        outcomes = {part: each.parts.get(part, Finding()).outcome for part in PARTS}
        if each.not_built:
            yield f"| {each.name} | not built | | | | | | {_cell(each.not_built)} |"
            continue
        error = max(finding.error for finding in each.parts.values())
        how = each.how.partition("; streams ")[0]
        streams = each.how.partition("; streams ")[2]
        joined = f"{outcomes['streams']}, {streams}" if streams else outcomes["streams"]
        yield (
            f"| {each.name} | {outcomes['scoring']} | {how} | {outcomes['adapter']} | "
            f"{outcomes['generate']} | {joined} | {error:.0e} | {_reasons(each)} |"
        )


def _reasons(verdict: Verdict) -> str:
    """Every reason once."""
    found = [finding.reason for finding in verdict.parts.values() if finding.reason]
    return _cell("; ".join(dict.fromkeys([*found, *verdict.notes])))


def _cell(text: str) -> str:
    plain = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return plain.replace("[", "\\[").replace("*", "\\*").replace("`", "")


def _adapters(verdicts: Sequence[Verdict]) -> Iterator[str]:
    kinds = ("base", "ft", "scaled", "null")
    yield (
        "Each way of PEFT to change a model, on a tiny Llama unless its name says another. `base` "
        "is compared with an untouched copy of the base model, `ft` with PEFT's own model, a "
        "scaled and a null adapter with weights that are changed by hand."
    )
    yield ""
    yield "| adapter | `base` | `ft` | scaled | null | largest error | reason |"
    yield "|---|---|---|---|---|---:|---|"
    for each in verdicts:
        if each.not_built:
            yield f"| {each.name} | not built | | | | | {_cell(each.not_built)} |"
            continue
        cells = " | ".join(_exact(each.parts.get(kind, Finding())) for kind in kinds)
        error = max(finding.error for finding in each.parts.values())
        yield f"| {each.name} | {cells} | {error:.0e} | {_reasons(each)} |"


def _exact(finding: Finding) -> str:
    return "exact" if finding.outcome == "ok" else finding.outcome


def lines_of(verdict: Verdict) -> Iterator[str]:
    """What a run prints of a case."""
    if verdict.not_built:
        yield f"{verdict.name}: not built: {verdict.not_built}"
        return
    said = ", ".join(f"{part} {finding.outcome}" for part, finding in verdict.parts.items())
    error = max((finding.error for finding in verdict.parts.values()), default=0.0)
    how = f" ({verdict.how})" if verdict.how else ""
    yield f"{verdict.name}: {said}; {error:.1e} nats{how}, {verdict.seconds} s"
    for part, finding in verdict.parts.items():
        if finding.reason:
            yield f"    {part}: {finding.outcome}: {finding.reason}"


def faults(verdicts: Sequence[Verdict]) -> list[str]:
    """Why a run fails: what is wrong or crashes, and too many refused streams."""
    found = [
        f"{each.name}, {part}: {finding.outcome}: {finding.reason}"
        for each in sorted(verdicts, key=lambda one: one.name)
        for part, finding in each.failures.items()
    ]
    refused = [each.name for each in verdicts if each.group == "type" and _lacks_streams(each)]
    if len(refused) > MOST_STREAMS_REFUSED:
        found.append(
            f"{len(refused)} types are scored but have no streams, at most {MOST_STREAMS_REFUSED} "
            f"may: {', '.join(sorted(refused))}"
        )
    return found


def _lacks_streams(verdict: Verdict) -> bool:
    outcomes = {part: finding.outcome for part, finding in verdict.parts.items()}
    return outcomes.get("scoring") == "ok" and outcomes.get("streams") == "refused"
