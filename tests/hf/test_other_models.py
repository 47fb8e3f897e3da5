"""Claims: another model beside a reference has the figures that float64 gives from full logits of
both, within 1e-5, whatever its head does after the product (soft cap, scale), tied or adapted, and
for completions and windows; a copy is exactly 0, and a merged adapter is its view within what
merging rounds; padding rows are left out and both distributions sum to 1 over the rest; another
vocabulary is refused, other tokens and a shorter context are errors of a text; when a model is let
go nothing of its body lives on, and it says so when it is asked; states beyond the bound come back
from a file as they were.

Not here: memory of a process (``benches.other_models``), and the command line.
"""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from forwardcache.errors import (
    ContextLengthError,
    InvalidInputError,
    ModelLoadError,
    UnsupportedModelError,
)
from forwardcache.hf import HFBackend
from forwardcache.hf.others import compare_models, head
from forwardcache.hf.others.spool import Spool
from forwardcache.scoring import PositionDifferences
from tests.hf import tiny, twists
from tests.hf.test_compare import LONG, TEXTS, holds, logits_of
from tests.hf.test_models import tiny_model


@pytest.fixture(autouse=True)
def without_collecting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second each in a process of many tests; one of them is about that."""
    if "lives_on" not in request.node.name:
        monkeypatch.setattr(head, "collect", lambda: None)


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def moved(model: Any) -> Any:
    """A copy of ``model`` with other weights, of its body and its head."""
    torch.manual_seed(5)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * parameter.std() * torch.randn_like(parameter))
    return other


def full_logits(model: Any, one: PositionDifferences, rows: int | None = None) -> Any:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(one.token_ids)[None]).logits[0]
    return logits[:, :rows].double().numpy()


def test_spooled_tensors_come_back_as_they_were() -> None:
    spool = Spool(100)
    made = [torch.randn(3, 5, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)] * 2
    numbers = [spool.add(each.T) for each in made]
    assert spool.bytes_in_memory <= 100 < sum(map(spool.size_of, numbers))
    for number, each in zip(numbers, made, strict=True):
        assert torch.equal(spool.get(number), each.T)
        assert spool.get(number).dtype == each.dtype
    spool.close()


@pytest.mark.parametrize("model_type", ["gemma2", "cohere", "gpt_neox", "mamba"])
def test_figures_are_those_of_both_models_logits(
    model_type: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spool.__init__, "__defaults__", (0,))
    ours = tiny_model(model_type)
    theirs = moved(ours)
    folders = {"copy": saved(ours, tokenizer, tmp_path / "copy"),
               "moved": saved(theirs, tokenizer, tmp_path / "moved")}  # fmt: skip
    # From the same file: where a weight lies in memory may decide a sum's last bit.
    backend = HFBackend.load(folders["copy"])
    found = compare_models(backend, folders, TEXTS, max_logit_bytes=4 * tiny.VOCAB * 40)
    assert list(found) == ["copy", "moved"]
    for one in found["copy"]:
        assert (one.kl == 0.0).all()
        assert one.same_top.all()
    for one in found["moved"]:
        holds(one, full_logits(ours, one), full_logits(theirs, one))
        assert one.counts.all()


@pytest.mark.parametrize(
    "options",
    [{"target_modules": ["q_proj", "lm_head"]}, {"target_modules": ["embed_tokens", "v_proj"]}],
    ids=["head", "embedding"],
)
@pytest.mark.parametrize("view", ["base", "ft", "scaled:0.5"])
def test_a_reference_with_an_adapter_keeps_its_view(
    options: dict[str, Any], view: str, tokenizer: Any, tmp_path: Path
) -> None:
    base = tiny.llama()
    base.config.tie_word_embeddings = True
    base.lm_head.weight = base.model.embed_tokens.weight
    other = saved(moved(base), tokenizer, tmp_path / "other")
    adapted = tiny.with_lora(base, **options)
    expected = HFBackend(copy.deepcopy(adapted), tokenizer).compare(TEXTS, [view])[view_id(view)]
    found = compare_models(HFBackend(adapted, tokenizer), {"other": other}, TEXTS, reference=view)
    for one, same in zip(found["other"], expected, strict=True):
        # What the reference says of a text doesn't depend on what is held against it.
        np.testing.assert_allclose(one.logprob_reference, same.logprob, atol=1e-5)


def view_id(word: str) -> str:
    return {"scaled:0.5": "scaled_0.50"}.get(word, word)


def test_a_merged_adapter_is_its_view(
    shared_models: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    adapted = copy.deepcopy(shared_models["llama+lora"])
    [expected] = HFBackend(adapted, tokenizer).compare(TEXTS, ["ft"]).values()
    merged = saved(copy.deepcopy(adapted).merge_and_unload(), tokenizer, tmp_path / "merged")
    found = compare_models(HFBackend(adapted, tokenizer), {"merged": merged}, TEXTS)
    for one, same in zip(found["merged"], expected, strict=True):
        np.testing.assert_allclose(one.kl, same.kl, atol=1e-4)
        ids = one.token_ids.tolist()
        both = [logits_of(shared_models["llama+lora"], ids, base=base) for base in (True, False)]
        holds(one, both[0], both[1], tolerance=1e-4)


def test_completions_and_windows_are_those_of_compare(
    shared_models: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    other = saved(moved(tiny.llama()), tokenizer, tmp_path / "other")
    texts, ends = ["the quick", LONG, "a"], [" brown fox", None, None]
    backend = HFBackend(copy.deepcopy(shared_models["llama"]), tokenizer)
    alone = HFBackend(tiny.llama(), tokenizer).compare(
        texts, ["base"], completions=ends, windows=True
    )["base"]
    [found] = compare_models(
        backend, {"other": other}, texts, completions=ends, windows=True
    ).values()
    for one, same in zip(found, alone, strict=True):
        assert one.token_ids.tolist() == same.token_ids.tolist()
        assert one.counts.tolist() == same.counts.tolist()
        np.testing.assert_allclose(one.logprob_reference, same.logprob, atol=1e-5)
    assert not found[0].counts.all()


def wider(rows: int) -> Any:
    """The tiny Llama, moved, with more rows than its tokenizer has tokens."""
    model = moved(tiny.llama())
    torch.manual_seed(6)
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[tiny.VOCAB :].normal_(std=3.0)
    return model.eval()


@pytest.mark.parametrize("swapped", [False, True])
def test_padding_rows_are_in_neither_distribution(
    swapped: bool, tokenizer: Any, tmp_path: Path
) -> None:
    models = [tiny.llama(), wider(tiny.VOCAB + 64)]
    ours, theirs = models[::-1] if swapped else models
    other = saved(theirs, tokenizer, tmp_path / "other")
    [found] = compare_models(
        HFBackend(copy.deepcopy(ours), tokenizer), {"p": other}, TEXTS
    ).values()
    for one in found:
        # The figures of the rows that both have, each normalised over these.
        holds(one, full_logits(ours, one, tiny.VOCAB), full_logits(theirs, one, tiny.VOCAB))
    whole = torch.from_numpy(full_logits(wider(tiny.VOCAB + 64), found[0])).softmax(-1)
    assert float(whole[:, tiny.VOCAB :].sum(-1).max()) > 0.01


def test_another_vocabulary_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    other_words = tiny.tokenizer()
    other_words.add_tokens(["<|extra|>"])
    folder = saved(wider(tiny.VOCAB + 64), other_words, tmp_path / "other")
    with pytest.raises(
        InvalidInputError, match=r"token 3\d\d is '<\|extra\|>', .* is none \(1 dif"
    ):
        compare_models(HFBackend(tiny.llama(), tokenizer), {"x": folder}, TEXTS)
    short = tiny.llama()
    short.resize_token_embeddings(tiny.VOCAB - 64)
    folder = saved(short, tokenizer, tmp_path / "short")
    with pytest.raises(InvalidInputError, match="256 logits a position, the reference has 320"):
        compare_models(HFBackend(tiny.llama(), tokenizer), {"x": folder}, TEXTS)


def test_texts_that_another_model_reads_otherwise_are_its_errors(
    tokenizer: Any, tmp_path: Path
) -> None:
    lower = tiny.tokenizer()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    model = moved(tiny.llama())
    folder = saved(model, lower, tmp_path / "lower")
    texts = ["hello world", "Hello World", LONG]
    found = compare_models(
        HFBackend(tiny.llama(), tokenizer), {"lower": folder}, texts, on_error="return"
    )["lower"]
    assert isinstance(found[0], PositionDifferences)
    assert "its tokenizer reads the text as other tokens" in str(found[1])
    assert isinstance(found[2], ContextLengthError)
    with pytest.raises(InvalidInputError, match="other tokens") as raised:
        compare_models(HFBackend(tiny.llama(), tokenizer), {"lower": folder}, texts[:2])
    assert raised.value.index == 1


def test_a_shorter_context_is_an_error_of_the_texts_beyond_it(
    tokenizer: Any, tmp_path: Path
) -> None:
    short = moved(tiny.llama())
    short.config.max_position_embeddings = 8
    folder = saved(short, tokenizer, tmp_path / "short")
    found = compare_models(
        HFBackend(tiny.llama(), tokenizer), {"s": folder}, TEXTS[:4], on_error="return"
    )["s"]
    assert [isinstance(one, ContextLengthError) for one in found] == [False, False, False, True]


def test_nothing_of_a_body_that_was_let_go_lives_on(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny.with_lora(tiny.llama())
    body = model.base_model.model.model
    gone = [weakref.ref(each.untyped_storage()) for each in body.layers.parameters()]
    folder = saved(moved(tiny.llama()), tokenizer, tmp_path / "other")
    backend = HFBackend(model, tokenizer)
    compare_models(backend, {"other": folder}, TEXTS)
    gc.collect()
    assert len(gone) > 10
    assert [each() for each in gone if each() is not None] == []
    # The shell is the caller's still, and holds no weights either.
    assert sum(each.untyped_storage().nbytes() for each in model.parameters()) < 100
    with pytest.raises(UnsupportedModelError, match="was let go"):
        backend.rolling_logprob("hello world")


@pytest.mark.parametrize(
    "make",
    [
        lambda: twists.made(twists.CutsItsStates),
        lambda: twists.made(twists.LooksAhead),
        lambda: tiny_model("opt"),
    ],
    ids=["cuts its states", "looks ahead", "opt"],
)
def test_a_model_that_cannot_be_taken_apart_is_refused(
    make: Any, tokenizer: Any, tmp_path: Path
) -> None:
    folder = saved(tiny.llama(), tokenizer, tmp_path / "other")
    with pytest.raises(UnsupportedModelError, match=r"head can't be run|needs a causal model"):
        compare_models(HFBackend(make(), tokenizer), {"other": folder}, TEXTS)


def test_a_folder_that_is_missing_is_named(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="nowhere is not a folder"):
        compare_models(HFBackend(tiny.llama(), tokenizer), {"x": tmp_path / "nowhere"}, TEXTS)
