"""Claims: the positions that a view moved most are those of the largest KL, each distinct text
once; their top tokens are those of a plain forward over what ``compare`` read before them, in
windows too; tokens add up to their text, and a part of a character is seen as bytes; an item that
has an error, and a model that can't answer, lose nothing else; nothing is cached.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.hf import top_tokens as module
from forwardcache.jobs.diff.moved import most_moved, moved_positions, pieces
from forwardcache.scoring import TokenDist
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.statistics.made import item

TEXTS = [*tiny.PROMPTS, tiny.PROMPTS[3]]
LONG = "the quick brown fox jumps over the lazy dog and again, the dog " * 12


def found_in(backend: Any, texts: list[str], **options: Any) -> Any:
    items = backend.compare(texts, ["ft"], windows=True)["ft"]
    names = [f"text {number}" for number in range(len(texts))]
    lines = range(1, len(texts) + 1)
    return items, moved_positions(backend, items, "ft", ids=names, lines=lines, **options)


def test_the_largest_come_first_and_copies_once(make_backend: MakeBackend) -> None:
    backend = make_backend()
    items, found = found_in(backend, TEXTS, most=10)
    every = sorted((kl for one in items[:-1] for kl in one.kl), reverse=True)
    assert [one.kl for one in found] == every[:10]
    for one in found:
        kl = items[one.line - 1].kl
        assert one.id == f"text {one.line - 1}"
        assert kl[one.place - 1] == one.kl == one.context_kl[one.at]
        assert len(one.context) == len(one.context_kl) > one.at
    assert backend.stats.cache_hits == backend.stats.forward_passes == 0


def test_top_tokens_are_those_of_a_plain_forward(make_backend: MakeBackend) -> None:
    backend = make_backend()
    items, found = found_in(backend, TEXTS)
    for one in found:
        ids = items[one.line - 1].token_ids[: one.place].tolist()
        lead = ids[-6:]
        for top, is_base in ((one.reference_top, True), (one.view_top, False)):
            with backend.model.disable_adapter() if is_base else nullcontext():
                logprobs = tiny.logprobs_after(backend.model, ids)[-1]
            best, tokens = logprobs.topk(5)
            assert [each.probability for each in top] == pytest.approx(
                best.exp().tolist(), abs=1e-5
            )
            expected = [pieces(backend.tokenizer, [*lead, token])[-1] for token in tokens.tolist()]
            assert [each.text for each in top] == expected


def test_behind_the_context_they_are_those_of_its_window(make_backend: MakeBackend) -> None:
    backend = make_backend()
    [one], found = found_in(backend, [LONG])
    ids = one.token_ids.tolist()
    assert len(ids) > 2 * tiny.CONTEXT
    assert any(each.place > tiny.CONTEXT for each in found)
    # What the view gave the token that follows is what the window gives it.
    for each in found:
        dist = module.top_tokens(backend, "ft", [(ids, each.place)], k=tiny.VOCAB)[0]
        assert isinstance(dist, TokenDist)
        follows = dist.logprobs[dist.token_ids.tolist().index(ids[each.place])]
        assert follows == pytest.approx(one.logprob[each.place - 1], abs=1e-4)


def test_tokens_add_up_to_their_text(tokenizer: Any) -> None:
    for text in (*TEXTS, "naïve — 日本 🤔 <b>\n\tx"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        shown = [each for each in pieces(tokenizer, ids) if not each.startswith("⟨")]
        assert "".join(shown) == text
    ids = tokenizer("€", add_special_tokens=False).input_ids
    assert pieces(tokenizer, ids) == ["⟨e2⟩", "⟨82⟩", "€"]
    assert pieces(tokenizer, [0, 1]) == ["<s>", "</s>"]


def test_only_positions_that_count_and_moved() -> None:
    counts = np.array([False, True, True, True])
    one = item([1, 2, 3, 4, 5], kl=[9.0, 3.0, -1e-9, 0.0], counts=counts)
    nan = item([2, 2, 3], kl=[np.nan, np.inf])
    items: list[Any] = [InvalidInputError("no"), one, nan, one]
    assert most_moved(items) == [(2, 2), (1, 2)]
    assert most_moved(items, most=1) == [(2, 2)]
    assert most_moved(items, skip_first=2) == []


def test_a_model_that_cant_answer_has_no_top_tokens(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    monkeypatch.setattr(
        backend._scorer,
        "fresh",
        lambda _spec, _op, items, **_: [InvalidInputError("no")] * len(items),
    )
    _, found = found_in(backend, TEXTS[:2])
    assert found
    assert all(one.reference_top == one.view_top == () for one in found)
