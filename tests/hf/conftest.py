"""Models and backends for the tests below; torch sees one passive thread."""

import os

# Before torch is imported: spinning threads cost several times the work itself on a busy machine.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from forwardcache.hf import HFBackend
from tests.hf import tiny

torch.set_num_threads(1)

MakeBackend = Callable[..., HFBackend]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """With BOS, which it adds."""
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def shared_models() -> dict[str, Any]:
    """Models that no test may change: Llama and GPT-2, plain and with a LoRA adapter."""
    return {
        "llama": tiny.llama(),
        "gpt2": tiny.gpt2(),
        "llama+lora": tiny.with_lora(tiny.llama()),
        "gpt2+lora": tiny.with_lora(tiny.gpt2(), target_modules=["c_attn", "c_proj"]),
    }


@pytest.fixture
def make_backend(shared_models: dict[str, Any], tokenizer: Any) -> Iterator[MakeBackend]:
    """Backends by the model's name; ``copied=True`` for a model that the test may change."""
    made: list[HFBackend] = []

    def make(name: str = "llama+lora", *, copied: bool = False, **options: Any) -> HFBackend:
        model = copy.deepcopy(shared_models[name]) if copied else shared_models[name]
        reads = options.pop("tokenizer", tokenizer)
        made.append(tiny.measured(lambda: HFBackend(model, reads, **options)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def head_positions(shared_models: dict[str, Any]) -> Iterator[list[int]]:
    """For each call of the shared Llama's head: the positions that it was given."""
    seen: list[int] = []
    tiny.counted.append(seen)
    head = shared_models["llama"].lm_head
    handle = head.register_forward_hook(lambda _m, _i, out: seen.append(out[..., 0].numel()))
    yield seen
    handle.remove()
    tiny.counted.remove(seen)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[str, Path]:
    """Folders with a model (and its tokenizer), an adapter of it, and an adapter of another."""
    root = tmp_path_factory.mktemp("models")
    base = tiny.llama()
    base.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    tiny.with_lora(base).save_pretrained(root / "adapter")
    tiny.with_lora(tiny.llama(layers=3)).save_pretrained(root / "deeper")
    tiny.with_lora(tiny.llama(hidden=64)).save_pretrained(root / "wider")
    return {path.name: path for path in root.iterdir()}
