"""Claims: a job that compares views has KL(base ‖ view) of the next token over the whole
vocabulary, from the forwards that it makes anyway; it is a value that is kept, in cache and store,
under a key that holds both; where base's logits aren't in hand base is run once more; what can't
be computed is called a lower bound; logits of a model that changed since are used for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forwardcache.errors import ModelMemoryError
from forwardcache.hf import HFBackend, HFView
from forwardcache.hf.batch.differences import divergences, position_differences
from forwardcache.operations import next_token_kl
from forwardcache.operations.next_token_dist import NextTokenDist
from forwardcache.statistics import differences_by_definition
from tests.hf.conftest import MakeBackend

PROMPTS = ["a b c", "b c d e", "the a", "d"]
TOP_K = 5


def asked(
    op: Any, views: Sequence[AbstractContextManager[HFView]], prompts: Sequence[str] = PROMPTS
) -> list[list[dict[str, Any]]]:
    """The fields against base of each view but the first, base, as a job asks for a chunk."""
    found, bases = [], None
    for view in views:
        with view as entered:
            values = op.ask(entered, prompts)
            if bases is None:
                bases = values
            else:
                found.append(op.against(entered, prompts, values, bases, top_k=TOP_K))
    return found


def compared(backend: HFBackend, *views: AbstractContextManager[HFView]) -> list[list[float]]:
    op = NextTokenDist(TOP_K).beside_base()
    rows = asked(op, [backend.as_base(), *(views or [backend.as_finetuned()])])
    assert all(list(row) == ["kl_base_nats"] for of_view in rows for row in of_view)
    return [[row["kl_base_nats"] for row in of_view] for of_view in rows]


def ran(backend: HFBackend, *views: AbstractContextManager[HFView]) -> list[tuple[str, str, int]]:
    """Of what was run to compare: operation, view and number of rows."""
    with backend.provenance() as notes:
        compared(backend, *views)
    counts = [
        (note.op, note.view_id, sum(len(batch.items) for batch in note.batches)) for note in notes
    ]
    return [each for each in counts if each[2]]


def truth(backend: HFBackend, view: AbstractContextManager[HFView], prompt: str) -> float:
    """From whole distributions, in float64."""
    dense = []
    for each in (backend.as_base(), view):
        with each as entered:
            dist = entered.next_token_dist(prompt, top_k=10_000)
        logprobs = np.empty((1, dist.vocab_size))
        logprobs[0, dist.token_ids] = dist.logprobs
        dense.append(logprobs)
    return float(differences_by_definition([0, 0], *dense).kl[0])


def test_it_is_that_of_whole_distributions(make_backend: MakeBackend) -> None:
    backend = make_backend()
    views = [backend.as_finetuned, lambda: backend.as_null_adapter(7)]
    for found, view in zip(compared(backend, *(view() for view in views)), views, strict=True):
        assert found == pytest.approx([truth(backend, view(), one) for one in PROMPTS], abs=1e-6)
        assert min(found) > 0.0


def test_it_takes_no_forward_of_its_own_and_is_kept(make_backend: MakeBackend) -> None:
    backend = make_backend()
    of_both = [("next_token_dist", "base", 4), ("next_token_dist", "ft", 4)]
    assert ran(backend) == of_both
    assert ran(backend) == []
    assert compared(backend) == compared(backend)


def test_a_store_has_it_for_later_processes(
    folders: dict[str, Path], tmp_path: Path, tokenizer: Any
) -> None:
    def load() -> HFBackend:
        return HFBackend.load(
            folders["model"], adapter=folders["adapter"], store=tmp_path / "values.db"
        )

    with load() as backend:
        first = compared(backend)
    with load() as later:
        assert ran(later) == []
        assert compared(later) == first


def test_base_is_run_once_more_where_its_values_were_kept(make_backend: MakeBackend) -> None:
    backend = make_backend()
    compared(backend)
    assert ran(backend, backend.as_null_adapter(7)) == [
        ("next_token_dist", "null_7", 4),
        ("next_token_kl", "base", 4),
        ("next_token_kl", "null_7", 4),
    ]
    assert ran(backend, backend.as_null_adapter(7)) == []
    [found] = compared(backend, backend.as_null_adapter(7))
    expected = [truth(backend, backend.as_null_adapter(7), one) for one in PROMPTS]
    assert found == pytest.approx(expected, abs=1e-6)


def test_logits_of_a_model_that_changed_since_are_not_used(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    op = NextTokenDist(TOP_K).beside_base()
    with backend.as_base() as base:
        bases = op.ask(base, PROMPTS)
    with torch.no_grad():
        backend.model.get_input_embeddings().weight.mul_(1.5)
    with backend.as_finetuned() as tuned:
        rows = op.against(tuned, PROMPTS, op.ask(tuned, PROMPTS), bases, top_k=TOP_K)
    expected = [truth(backend, backend.as_finetuned(), one) for one in PROMPTS]
    assert [row["kl_base_nats"] for row in rows] == pytest.approx(expected, abs=1e-6)


def test_what_memory_is_too_small_for_is_called_a_lower_bound(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    compared(backend)

    def refused(_self: Any, encoded: Any) -> Any:
        return ModelMemoryError("too large") if len(encoded.fed) < 4 else None

    monkeypatch.setattr(next_token_kl.KeptBaseLogits, "without_run", refused)
    op = NextTokenDist(TOP_K).beside_base()
    [rows] = asked(op, [backend.as_base(), backend.as_null_adapter(7)])
    expected = [truth(backend, backend.as_null_adapter(7), one) for one in PROMPTS]
    bounds = {at for at, row in enumerate(rows) if "kl_lower_bound" in row}
    assert 0 < len(bounds) < len(PROMPTS)
    for at, row in enumerate(rows):
        if at in bounds:
            assert list(row) == ["kl_lower_bound", "mass_outside", "compared_tokens"]
            assert row["kl_lower_bound"] <= expected[at] + 1e-6
        else:
            assert row["kl_base_nats"] == pytest.approx(expected[at], abs=1e-6)


def test_the_kernel_is_that_of_compare() -> None:
    chance = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 7, 70_000, generator=chance)
    theirs[3] = ours[3]
    ours[4, 0], theirs[5, :3] = -torch.inf, -torch.inf
    theirs[6, 0] = torch.nan
    whole = position_differences(ours, theirs, torch.zeros(7, dtype=torch.int64), max_bytes=2**24)
    assert divergences(ours, theirs).tolist() == pytest.approx(whole[:, 0].tolist(), nan_ok=True)
    assert divergences(ours, theirs)[3] == 0.0
