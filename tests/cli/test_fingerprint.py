"""Claims: an edit anywhere in what decides rows makes it another job; nothing else does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwardcache.jobs import fingerprint
from forwardcache.jobs.fingerprint import folder_fingerprint
from tests.cli.conftest import ASSETS, Ended, Run
from tests.cli.test_score_resume import VIEWS, interrupted

WEIGHTS_BYTES = 3 * 2**20 + 5


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_PIECE_BYTES", 2**20)


@pytest.fixture
def folder(tmp_path: Path, small_pieces: None) -> Path:
    folder = tmp_path / "model"
    (folder / "additional_chat_templates").mkdir(parents=True)
    for name in DECIDING:
        (folder / name).write_bytes(name.encode() * 3)
    (folder / "model.safetensors").write_bytes(bytes(WEIGHTS_BYTES))
    return folder


DECIDING = (
    "config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "additional_chat_templates/tools.jinja",
)
BESIDE = (
    ".DS_Store",
    ".gitattributes",
    "._config.json",
    ".cache/huggingface/download/config.json",
    "README.md",
    "LICENSE",
    "notes.txt",
    "figure.png",
    "training_args.bin",
    "optimizer.pt",
    "pytorch_model.bin",
    "model.gguf",
    "trainer_state.json",
    "generation_config.json",
    "runs/events.json",
    "checkpoint-10/model.safetensors",
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, WEIGHTS_BYTES - 1), st.integers(1, 255))
def test_any_byte_of_the_weights_is_noticed(folder: Path, place: int, change: int) -> None:
    before = folder_fingerprint(folder)
    path = folder / "model.safetensors"
    kept = path.read_bytes()
    path.write_bytes(kept[:place] + bytes([kept[place] ^ change]) + kept[place + 1 :])
    assert folder_fingerprint(folder) != before
    path.write_bytes(kept)
    assert folder_fingerprint(folder) == before


@pytest.mark.parametrize("name", DECIDING)
def test_each_file_that_decides_rows_is_noticed(folder: Path, name: str) -> None:
    before = folder_fingerprint(folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[::-1])
    changed = folder_fingerprint(folder)
    path.rename(path.with_name("other" + path.suffix))
    assert len({before, changed, folder_fingerprint(folder)}) == 3


@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_them_does_not_matter(folder: Path, name: str) -> None:
    before = folder_fingerprint(folder)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"beside")
    assert folder_fingerprint(folder) == before


def test_a_copy_elsewhere_with_other_dates_is_the_same(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    for path in copied.rglob("*"):
        os.utime(path, (1, 1))
    linked = tmp_path / "links"
    linked.symlink_to(folder)
    assert folder_fingerprint(copied) == folder_fingerprint(folder) == folder_fingerprint(linked)


def test_an_edit_that_keeps_date_and_size_is_noticed(folder: Path) -> None:
    path = folder / "model.safetensors"
    times = path.stat()
    before = folder_fingerprint(folder)
    with path.open("r+b") as file:
        file.seek(WEIGHTS_BYTES // 2)
        file.write(b"\1")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert folder_fingerprint(folder) != before


def test_a_run_goes_on_beside_a_new_file_and_not_with_edited_weights(
    run: Run, prompts: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(ASSETS / "model", tmp_path / "model")

    def score(*arguments: object, **keywords: Any) -> Ended:
        return run(
            "score", "--model", model, "--adapter", ASSETS / "adapter", *arguments, **keywords
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", 4)
        out = tmp_path / "rows.jsonl"
        interrupted(score, prompts, out)
        (model / ".DS_Store").touch()
        interrupted(score, prompts, out, "--resume", chunks=1)
        weights = model / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1000] ^= 1
        weights.write_bytes(content)
        ended = score("--prompts", prompts, *VIEWS, "--out", out, "--resume")
        ended.refused("another job", "other model")
