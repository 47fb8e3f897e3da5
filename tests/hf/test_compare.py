"""Claims: ``compare`` gives the figures that float64 gives from full logits, within 1e-5, in every
way that a model may run its rows, with a head that is tied, adapted, or can't be run alone, and in
half precision from the same logits; a view beside itself is exactly 0; chunks and slabs change no
value; logits stay within their bound; completions, windows, short texts and bad ones are as in the
other calls; a model that changes meanwhile is begun again or refused; nothing stays switched.

Not here: the kernel by itself (``test_differences``), and a GPU.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from forwardcache.errors import (
    AdapterError,
    ContextLengthError,
    EmptyCompletionError,
    InvalidInputError,
    ModelMemoryError,
    NestedViewError,
    UnsupportedModelError,
    ViewParameterError,
)
from forwardcache.hf import HFBackend
from forwardcache.hf.batch.differences import FIELDS, position_differences
from forwardcache.hf.scoring import comparison
from forwardcache.hf.scoring.heads import Heads
from forwardcache.hf.spec import BASE, FINETUNED, named
from forwardcache.scoring import PositionDifferences
from tests.hf import tiny, twists
from tests.hf.conftest import MakeBackend
from tests.hf.test_differences import oracle

TEXTS = [*tiny.PROMPTS, tiny.PROMPTS[0]]
LONG = "the quick brown fox jumps over the lazy dog and again, the dog " * 12


def logits_of(model: Any, ids: Sequence[int], *, base: bool) -> Any:
    """Full logits [tokens, vocab] in float64, from PEFT's own switch."""
    tokens = torch.tensor([list(ids)])
    with torch.no_grad():
        if base:
            with model.disable_adapter():
                return model(input_ids=tokens).logits[0].double().numpy()
        return model(input_ids=tokens).logits[0].double().numpy()


def holds(found: PositionDifferences, reference: Any, view: Any, tolerance: float = 1e-5) -> None:
    ids = found.token_ids
    expected = oracle(reference[: len(ids) - 1], view[: len(ids) - 1], ids[1:])
    for field, values in expected.items():
        np.testing.assert_allclose(getattr(found, field), values, atol=tolerance, err_msg=field)


def all_hold(backend: HFBackend, found: Sequence[PositionDifferences]) -> None:
    assert len(found) == len(TEXTS)
    for value in found:
        ids = value.token_ids.tolist()
        ours, theirs = (logits_of(backend.model, ids, base=base) for base in (True, False))
        holds(value, ours, theirs)
        assert value.counts.all()


def go(monkeypatch: pytest.MonkeyPatch, backend: HFBackend, **ways: Any) -> None:
    """Has the backend's model run in other ways than those that were measured."""
    scorer = backend._scorer
    measured = scorer.admitted
    monkeypatch.setattr(scorer, "admitted", lambda *view: replace(measured(*view), **ways))


def same(one: PositionDifferences, other: PositionDifferences, tolerance: float) -> None:
    for field in FIELDS:
        np.testing.assert_allclose(
            getattr(one, field), getattr(other, field), atol=tolerance, err_msg=field
        )


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
def test_figures_are_those_of_full_logits(make_backend: MakeBackend, name: str) -> None:
    backend = make_backend(name)
    found = backend.compare(TEXTS, ["ft"])
    assert list(found) == ["ft"]
    all_hold(backend, found["ft"])


@pytest.mark.parametrize("batches", ["packed", "padded", "equal_lengths", "single"])
@pytest.mark.parametrize("alone", [True, False])
def test_every_way_gives_the_same_figures(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, batches: Any, alone: bool
) -> None:
    backend = make_backend()
    go(monkeypatch, backend, batches=batches, runs_head_alone=alone)
    all_hold(backend, backend.compare(TEXTS, ["ft"])["ft"])


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["embed_tokens", "v_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [259, 301]},
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_heads_that_are_tied_or_adapted_are_each_views_own(
    tokenizer: Any, options: dict[str, Any], tied: bool
) -> None:
    base = tiny.llama()
    if tied:
        base.config.tie_word_embeddings = True
        base.lm_head.weight = base.model.embed_tokens.weight
    with_adapter = tiny.with_lora(base, **options)
    with torch.no_grad():
        for name, parameter in with_adapter.named_parameters():
            if "modules_to_save" in name or "trainable_tokens_delta" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    backend = HFBackend(with_adapter, tokenizer)
    all_hold(backend, backend.compare(TEXTS, ["ft"])["ft"])


@pytest.mark.parametrize("kind", [twists.CutsItsStates, twists.NamesPositionsWrongly])
def test_a_model_that_gives_only_full_logits_is_compared_too(tokenizer: Any, kind: Any) -> None:
    backend = HFBackend(tiny.with_lora(twists.made(kind)), tokenizer)
    all_hold(backend, backend.compare(TEXTS, ["ft"])["ft"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alone", [True, False])
def test_in_half_precision_they_are_those_of_the_same_logits(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, alone: bool
) -> None:
    seen: list[tuple[Any, Any]] = []

    def kernel(ours: Any, theirs: Any, targets: Any, **options: Any) -> Any:
        seen.append((ours.double().numpy(), theirs.double().numpy()))
        return position_differences(ours, theirs, targets, **options)

    monkeypatch.setattr(comparison, "position_differences", kernel)
    model = tiny.with_lora(tiny.llama(dtype=dtype)).to(dtype)
    backend = HFBackend(model, tokenizer)
    if not alone:
        go(monkeypatch, backend, runs_head_alone=False)
    found = backend.compare(TEXTS[:-1], ["ft"])["ft"]
    ours, theirs = (np.concatenate(each) for each in zip(*seen, strict=True))
    begin = 0
    for value in found:
        end = begin + len(value.kl)
        holds(value, ours[begin:end], theirs[begin:end])
        plain = logits_of(model, value.token_ids.tolist(), base=True)[:-1]
        np.testing.assert_allclose(ours[begin:end], plain, atol=0.05 * abs(plain).max())
        begin = end
    assert begin == len(ours)


@pytest.mark.parametrize("alone", [True, False])
def test_a_view_beside_itself_is_exactly_zero(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    backend = make_backend()
    if not alone:
        go(monkeypatch, backend, runs_head_alone=False)
    found = backend.compare(TEXTS, ["scaled:1", "ft"], reference="ft")
    for value in [*found["scaled_1.00"], *found["ft"]]:
        for field in ("kl", "kl_reverse", "js"):
            assert not getattr(value, field).any()
        assert value.same_top.all()
        assert (value.top_k_agreement == 1.0).all()
        assert value.logprob.tolist() == value.logprob_reference.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("modules", [["q_proj"], ["q_proj", "lm_head"]])
def test_an_adapter_that_does_nothing_is_exactly_zero_away(
    tokenizer: Any, dtype: torch.dtype, modules: list[str]
) -> None:
    model = tiny.with_lora(tiny.llama(dtype=dtype), target_modules=modules).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    backend = HFBackend(model, tokenizer, max_logit_bytes=20_000)
    for value in backend.compare(TEXTS, ["ft"])["ft"]:
        assert not value.kl.any()
        assert not value.js.any()
        assert value.same_top.all()


def test_equal_states_have_equal_logits_wherever_they_stand() -> None:
    class RoundsByPlace:
        def head_logits(self, _: Any, states: torch.Tensor) -> torch.Tensor:
            return states + torch.arange(len(states))[:, None]

    runner: Any = RoundsByPlace()
    states = torch.randn(3, 4)
    moved = states.clone()
    moved[1] += 1
    heads = Heads(runner, object, lambda _: nullcontext(), are_apart=False)
    ours, theirs = (each for _, each in heads.logits({BASE: states, FINETUNED: moved}))
    assert theirs[[0, 2]].tolist() == ours[[0, 2]].tolist()
    assert theirs[1].tolist() == (moved[1] + 4).tolist()


def test_chunks_and_slabs_change_no_value(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = HFBackend(tiny.with_lora(tiny.llama(dtype=torch.float64)).double(), tokenizer)
    views = ["ft", "scaled:0.5", "null:7"]
    whole = backend.compare(TEXTS, views)
    chunked = backend.compare(TEXTS, views, max_logit_bytes=20_000)
    monkeypatch.setattr(comparison, "SLAB_BYTES", 1)
    slabs = backend.compare(TEXTS, views, max_logit_bytes=5)
    for view in whole:
        for values in zip(whole[view], chunked[view], slabs[view], strict=True):
            same(values[0], values[1], 1e-12)
            same(values[0], values[2], 1e-12)


@pytest.mark.parametrize("alone", [True, False])
def test_the_reference_runs_once_for_all_views(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    backend = make_backend()
    if not alone:
        go(monkeypatch, backend, runs_head_alone=False)
    with backend.provenance() as computed:
        backend.compare(TEXTS, ["ft", "scaled:0.5", "null:7", "base"])
    assert [each.view_id for each in computed] == ["base", "ft", "scaled_0.50", "null_7"]
    assert {each.op for each in computed} == {"compare"}
    assert backend.stats.forward_passes == 0
    assert len(backend.instrumentation.cache) == 0


@pytest.mark.parametrize("modules", [["q_proj"], ["q_proj", "lm_head"]])
@pytest.mark.parametrize("views", [["ft"], ["ft", "scaled:0.5", "null:7"]])
def test_logits_stay_within_their_bound(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, modules: list[str], views: list[str]
) -> None:
    backend = HFBackend(tiny.with_lora(tiny.llama(), target_modules=modules), tokenizer)
    bound = 200_000
    sizes: list[int] = []

    def kernel(ours: Any, theirs: Any, targets: Any, **options: Any) -> Any:
        # Parts of one product share its memory.
        held = {each.untyped_storage().data_ptr(): each for each in (ours, theirs)}
        logits = sum(each.untyped_storage().nbytes() for each in held.values())
        sizes.append(logits + 4 * 8 * 320 * max(1, bound // 80 // 320))
        return position_differences(ours, theirs, targets, **options)

    monkeypatch.setattr(comparison, "position_differences", kernel)
    backend.compare([LONG[:150]] * 2 + [LONG[3:150]], views, max_logit_bytes=bound)
    assert len(sizes) > len(views)
    assert max(sizes) <= bound


def test_only_a_completions_positions_count(make_backend: MakeBackend, tokenizer: Any) -> None:
    backend = make_backend()
    prompts = ["the quick brown", "hello", "the lazy dog"]
    ends = [" fox jumps", None, " and again"]
    found = backend.compare(prompts, ["ft"], completions=ends)["ft"]
    for value, prompt, end in zip(found, prompts, ends, strict=True):
        assert value.token_ids.tolist() == tokenizer(prompt + (end or ""))["input_ids"]
        if end is None:
            assert value.counts.all()
            continue
        counted = float(value.logprob[value.counts].astype(np.float64).sum())
        with backend.as_finetuned() as view:
            assert counted == pytest.approx(view.logprob_of(prompt, end), abs=1e-4)
        assert 0 < value.counts.sum() < len(value.counts)
        assert value.counts.tolist() == sorted(value.counts.tolist())
    plain = backend.compare([prompts[0] + ends[0]], ["ft"])["ft"][0]  # type: ignore[operator]
    same(plain, found[0], 1e-5)


def test_texts_over_the_context_need_windows(make_backend: MakeBackend, tokenizer: Any) -> None:
    backend = make_backend()
    with pytest.raises(ContextLengthError):
        backend.compare([LONG], ["ft"])
    [value] = backend.compare([LONG], ["ft"], windows=True)["ft"]
    ids = tokenizer(LONG)["input_ids"]
    assert value.token_ids.tolist() == ids
    assert len(ids) > 2 * tiny.CONTEXT
    with backend.as_finetuned() as view:
        expected = view.rolling_logprob(LONG, windows=True).logprobs
    np.testing.assert_allclose(value.logprob, expected, atol=1e-4)
    first = np.array(logits_of(backend.model, ids[: tiny.CONTEXT], base=True))
    moved = np.array(logits_of(backend.model, ids[: tiny.CONTEXT], base=False))
    known = oracle(first, moved, ids[1 : tiny.CONTEXT + 1])
    np.testing.assert_allclose(value.kl[: tiny.CONTEXT], known["kl"], atol=1e-5)
    [ended] = backend.compare([LONG], ["ft"], completions=[" fox"], windows=True)["ft"]
    assert 0 < ended.counts.sum() < 4


def test_short_texts_are_empty(make_backend: MakeBackend) -> None:
    backend = make_backend()
    found = backend.compare(["", "hello world"], ["ft"])["ft"]
    assert found[0].token_ids.tolist() == [0]
    assert len(found[0].kl) == len(found[0].counts) == 0
    assert len(found[1].kl) > 0
    assert backend.compare([], ["ft"]) == {"ft": []}
    assert backend.compare(["hello"], []) == {}


def test_a_bad_text_takes_nobody_with_it(make_backend: MakeBackend) -> None:
    backend = make_backend()
    texts: list[Any] = ["hello world", 7, LONG, "the dog"]
    found = backend.compare(texts, ["ft", "null:7"], on_error="return")
    for values in found.values():
        kinds = [type(value) for value in values]
        expected = [PositionDifferences, InvalidInputError, ContextLengthError, PositionDifferences]
        assert kinds == expected
    with pytest.raises(InvalidInputError) as raised:
        backend.compare(texts, ["ft"])
    assert raised.value.index == 1
    assert raised.value.results is not None
    assert [type(each) for each in raised.value.results] == kinds
    [value] = backend.compare(["hello"], ["ft"], completions=[""], on_error="return")["ft"]
    assert isinstance(value, EmptyCompletionError)


def test_views_are_given_by_object_name_or_id(make_backend: MakeBackend) -> None:
    backend = make_backend()
    view = backend.as_null_adapter(7, rank_scale=2.0)
    found = backend.compare(["hello world"], [view, "scaled:0.5", "base"], reference="ft")
    assert list(found) == ["null_7_rank2.00", "scaled_0.50", "base"]
    again = backend.compare(["hello world"], list(found), reference=backend.as_finetuned())
    assert again == found
    assert named("null:7:0.1:2") == backend.as_null_adapter(7, init_scale=0.1, rank_scale=2.0).spec


@pytest.mark.parametrize(
    "word", ["", "FT", "ft:1", "scaled", "scaled:", "scaled:x", "scaled:nan", "null", "null:x"]
)
def test_a_name_of_no_view_is_refused(make_backend: MakeBackend, word: str) -> None:
    with pytest.raises(ViewParameterError):
        make_backend().compare(["hello"], [word])


def test_what_is_asked_wrongly_is_refused(make_backend: MakeBackend) -> None:
    backend, other = make_backend(), make_backend("gpt2+lora")
    wrong: list[dict[str, Any]] = [
        {"texts": "hello", "views": ["ft"]},
        {"texts": ["hello"], "views": "ft"},
        {"texts": ["hello"], "views": ["ft", "ft"]},
        {"texts": ["hello"], "views": ["scaled:1.001", "scaled:1.0"]},
        {"texts": ["hello"], "views": [7]},
        {"texts": ["hello"], "views": [other.as_base()]},
        {"texts": ["hello"], "views": ["ft"], "completions": []},
        {"texts": ["hello"], "views": ["ft"], "completions": " a"},
        {"texts": ["hello"], "views": ["ft"], "max_logit_bytes": 0},
        {"texts": ["hello"], "views": ["ft"], "on_error": "ignore"},
    ]
    for arguments in wrong:
        with pytest.raises(InvalidInputError):
            backend.compare(**arguments)
    with pytest.raises(AdapterError):
        make_backend("llama").compare(["hello"], ["ft"])
    with backend.as_base(), pytest.raises(NestedViewError):
        backend.compare(["hello"], ["ft"])


def test_a_model_that_looks_ahead_is_refused(tokenizer: Any) -> None:
    backend = HFBackend(tiny.with_lora(twists.made(twists.LooksAhead)), tokenizer)
    with pytest.raises(UnsupportedModelError, match="causal"):
        backend.compare(["hello world"], ["ft"])


def test_nothing_stays_switched_also_after_an_error(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(copied=True)
    backend.model.train()
    before = tiny.frozen_state(backend.model)
    backend.compare(TEXTS, ["ft", "scaled:0.5", "null:7"])
    assert tiny.frozen_state(backend.model) == before

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr(comparison, "position_differences", fails)
    with pytest.raises(RuntimeError, match="out of order"):
        backend.compare(TEXTS, ["null:7"])
    assert tiny.frozen_state(backend.model) == before


def test_a_model_that_changes_meanwhile_is_begun_again(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(copied=True)
    changes = [1]

    def kernel(*arguments: Any, **options: Any) -> Any:
        if changes:
            changes.pop()
            with torch.inference_mode(False), torch.no_grad():
                backend.model.base_model.model.lm_head.weight.mul_(1.5)
        return position_differences(*arguments, **options)

    monkeypatch.setattr(comparison, "position_differences", kernel)
    all_hold(backend, backend.compare(TEXTS, ["ft"])["ft"])
    changes += [1] * 1000
    with pytest.raises(UnsupportedModelError, match="changed"):
        backend.compare(TEXTS, ["ft"])


@pytest.mark.parametrize("alone", [True, False])
def test_memory_that_is_too_small_makes_chunks_smaller(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    backend = make_backend()
    if not alone:
        go(monkeypatch, backend, runs_head_alone=False)
    most = [7]

    def kernel(ours: Any, *arguments: Any, **options: Any) -> Any:
        if len(ours) > most[0]:
            raise torch.OutOfMemoryError("out of memory")
        return position_differences(ours, *arguments, **options)

    monkeypatch.setattr(comparison, "position_differences", kernel)
    if alone:
        all_hold(backend, backend.compare(TEXTS, ["ft"])["ft"])
        most[0] = 0
        with pytest.raises(ModelMemoryError):
            backend.compare(TEXTS, ["ft"])
    else:
        found = backend.compare(TEXTS, ["ft"], on_error="return")["ft"]
        assert {type(each) for each in found} == {PositionDifferences, ModelMemoryError}


def test_progress_adds_up_to_the_tokens_of_all_views(make_backend: MakeBackend) -> None:
    backend = make_backend()
    seen: list[int] = []
    backend.progress = seen.append
    found = backend.compare(TEXTS, ["ft", "null:7"])["ft"]
    assert sum(seen) == 3 * sum(len(value.kl) for value in found)
    assert all(each > 0 for each in seen)


def test_a_gain_of_what_is_not_lora_is_compared_with_its_own_weights(tokenizer: Any) -> None:
    model = tiny.with_lora(tiny.llama(), use_dora=True)
    assert isinstance(model.peft_config["default"], LoraConfig)
    backend = HFBackend(model, tokenizer)
    all_hold(backend, backend.compare(TEXTS, ["ft"])["ft"])
    assert math.isfinite(backend.compare(TEXTS, ["ft"])["ft"][0].kl.sum())


def test_a_configuration_that_tells_no_width_is_no_matter(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    vars(backend.model.config)["hidden_size"] = None
    all_hold(backend, backend.compare(TEXTS, ["ft"])["ft"])
