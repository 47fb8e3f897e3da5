"""Claims: another function in place of one that a model runs is another state, in this process and
in others; a process that replaced nothing has the words of every other such process.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

from forwardcache.hf import HFBackend
from forwardcache.hf.model.identity import Policy
from forwardcache.hf.model.watch import ModelWatch
from tests.hf import tiny

Patch = Callable[[pytest.MonkeyPatch], None]


def times(function: Any, factor: float) -> Any:
    @functools.wraps(function)
    def scaled(*arguments: Any, **keywords: Any) -> Any:
        return function(*arguments, **keywords) * factor

    return scaled


def on_class(patch: pytest.MonkeyPatch) -> None:
    patched = times(modeling_llama.LlamaMLP.forward, 1.5)
    patch.setattr(modeling_llama.LlamaMLP, "forward", patched)


def on_torchs_class(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nn.Linear, "forward", times(nn.Linear.forward, 1.5))


def in_module(patch: pytest.MonkeyPatch) -> None:
    turned = modeling_llama.apply_rotary_pos_emb
    patch.setattr(
        modeling_llama,
        "apply_rotary_pos_emb",
        lambda q, k, *rest, **more: (turned(q, k, *rest, **more)[0] * 2, k),
    )


def registered(patch: pytest.MonkeyPatch) -> None:
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def halved(*arguments: Any, **keywords: Any) -> Any:
        output, weights = attend(*arguments, **keywords)
        return output * 0.5, weights

    mapping = ALL_ATTENTION_FUNCTIONS._global_mapping
    patch.setitem(mapping, "sdpa", halved)


PATCHES: dict[str, Patch] = {
    "a class's forward": on_class,
    "the forward of torch's class": on_torchs_class,
    "a function of the model's module": in_module,
    "a registered attention": registered,
}


@pytest.fixture
def plain() -> Any:
    return tiny.llama()


def value(model: Any, **options: Any) -> float:
    with HFBackend(model, tiny.tokenizer(), **options) as backend:
        return backend.logprob_of("the quick", " fox")


@pytest.mark.parametrize("policy", ["versions", "strict"])
@pytest.mark.parametrize("replace", PATCHES.values(), ids=PATCHES.keys())
def test_a_replaced_function_is_another_state(
    replace: Patch, policy: Policy, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HFBackend(plain, tiny.tokenizer(), identity=policy) as backend:
        before = backend.logprob_of("the quick", " fox")
        with monkeypatch.context() as patch:
            replace(patch)
            patched = backend.logprob_of("the quick", " fox")
            assert patched == value(plain)
            assert patched != before
        assert backend.logprob_of("the quick", " fox") == before
        backend.logprob_of("the quick", " fox")
        assert backend.stats.cache_hits >= 1


@pytest.mark.parametrize("replace", PATCHES.values(), ids=PATCHES.keys())
def test_a_store_gives_no_value_of_a_patched_process(
    replace: Patch, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, before = str(tmp_path / "values.db"), value(plain)
    with monkeypatch.context() as patch:
        replace(patch)
        patched = value(plain, store=store)
    assert value(plain, store=store) == before != patched
    with monkeypatch.context() as patch:
        replace(patch)
        assert value(plain, store=store) == patched


def test_the_numbers_that_a_patch_holds_are_told_apart(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = modeling_llama.LlamaMLP.forward
    found = set()
    for factor in (1.5, 2.5):
        monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", times(forward, factor))
        found.add(ModelWatch(plain).code)
    assert len(found) == 2
    assert None not in found


def test_a_patch_that_holds_what_has_no_words_has_no_description(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    factor: Any = torch.tensor(1.5)
    patched = times(modeling_llama.LlamaMLP.forward, factor)
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", patched)
    watch = ModelWatch(plain)
    assert (watch.code, watch.has_unknown_code) == (None, True)


WORDS = "import json; from tests.hf.test_code import words; print(json.dumps(words()))"


def words() -> list[str]:
    """A digest of what describes the code of each of three models."""
    models = (tiny.llama(), tiny.gpt2(), tiny.with_lora(tiny.llama()))
    codes = [ModelWatch(model).code for model in models]
    assert None not in codes
    return [hashlib.sha256(repr(code).encode()).hexdigest() for code in codes]


def test_every_process_has_the_same_words_for_the_same_code() -> None:
    command = [sys.executable, "-W", "ignore", "-c", WORDS]
    elsewhere = json.loads(subprocess.check_output(command, text=True))
    assert elsewhere == words()
    assert len({*elsewhere}) == 3
