"""All checks of one case, in the process that was started for it."""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers

from forwardcache.hf import HFBackend
from tests.hf import tiny
from tests.hf.adapter_cases import CASES
from tools.matrix import adapters
from tools.matrix.cases import Case, cases, made
from tools.matrix.oracle import Oracle, distance
from tools.matrix.scoring import Scored, scoring
from tools.matrix.streams import streams, written
from tools.matrix.verdict import Finding, ModelError, Verdict, first_line

WEAK = 0.02
"""Nats; a model that hears less of what is four tokens back hides some errors, and says so."""
PARTS = ("scoring", "adapter", "generate", "streams")


def verdict_on(name: str) -> Verdict:
    """The verdict on a case of ``cases`` or of the adapters' table, by its name."""
    began = time.monotonic()
    tokenizer = tiny.tokenizer()
    if name in CASES:
        verdict = adapters.examined(name, tokenizer)
    else:
        verdict = _of_model(cases()[name], tokenizer)
    verdict.seconds = round(time.monotonic() - began, 1)
    return verdict


def _of_model(case: Case, tokenizer: Any) -> Verdict:
    verdict = Verdict(case.name, case.group)
    try:
        model = made(case)
    except Exception as error:
        verdict.not_built = f"{type(error).__name__}: {first_line(error)}"
        return verdict
    oracle = Oracle(model)
    heard = _hears(oracle)
    verdict.hears = heard or 0.0
    if heard is not None and heard < WEAK:
        verdict.notes.append(f"a token four back moves the logits by {heard:.2g} nats only")
    scored = Scored(oracle, tokenizer)

    def make(**options: Any) -> HFBackend:
        return HFBackend(model, tokenizer, **options)

    verdict.parts["scoring"] = scoring(make, scored)
    if _is_refused_as_a_whole(verdict.parts["scoring"], make):
        refusal = verdict.parts["scoring"]
        return _without_views(verdict, refusal)
    _admitted(verdict, make())
    verdict.parts["adapter"] = adapters.lora_views(model, oracle, tokenizer)
    ends = _ends(model)
    verdict.parts["generate"] = written(make(), oracle, tokenizer, ends)
    verdict.parts["streams"] = streams(make(), oracle, ends)
    return verdict


def _hears(oracle: Oracle) -> float | None:
    """How far a token four back moves the logits of the last place; None if the model can't run."""
    row = list(range(20, 50))
    other = [*row[:-5], 99, *row[-4:]]
    try:
        return distance(oracle.after(row)[-1], oracle.after(other)[-1])
    except ModelError:
        return None


def _is_refused_as_a_whole(finding: Finding, make: Any) -> bool:
    if finding.outcome != "refused":
        return False
    try:
        make().next_token_dist("ABC")
    except Exception:
        return True
    return False


def _without_views(verdict: Verdict, refusal: Finding) -> Verdict:
    for part in PARTS[1:]:
        verdict.parts[part] = Finding("refused", 0.0, refusal.reason)
    return verdict


def _ends(model: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    return frozenset([] if ends is None else ends if isinstance(ends, list) else [ends])


def _admitted(verdict: Verdict, backend: HFBackend) -> None:
    """What the backend says of how the model is run."""
    try:
        admission = getattr(backend, "admission", None)
    except Exception as error:
        verdict.notes.append(f"admission: {type(error).__name__}: {first_line(error)}")
        return
    if admission is None:
        return
    shares = ", shared prefixes" if admission.prefixes else ""
    verdict.how = f"{str(admission.batches).replace('_', ' ')}{shares}; streams {admission.streams}"
    verdict.notes += list(admission.notes)


def prepared() -> None:
    """Makes this process one that runs cases: one thread, no words of libraries."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
