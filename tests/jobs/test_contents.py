"""Claims: the contents of folders change with every file that is read, and there are none where an
index of weights leads to a file that isn't among them.
"""

import json
import os
from pathlib import Path

import pytest

from forwardcache.jobs.recall import contents
from forwardcache.jobs.recall.contents import contents_of


def index(folder: Path, *parts: object) -> None:
    weights = {f"layers.{number}.weight": part for number, part in enumerate(parts)}
    text = json.dumps({"metadata": {}, "weight_map": weights})
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    for name in ("a.safetensors", "inner/b.safetensors", "../outside.safetensors"):
        (folder / name).write_bytes(b"weights")
    return folder


def test_an_index_may_name_the_files_that_are_read(model: Path) -> None:
    index(model, "a.safetensors", "a.safetensors", "inner/b.safetensors")
    before = contents_of([model])
    assert before is not None
    (model / "inner/b.safetensors").write_bytes(b"others")
    after = contents_of([model], anew=True)
    assert after is not None
    assert after.digest != before.digest


@pytest.mark.parametrize(
    "part", ["../outside.safetensors", "gone.safetensors", ".hidden.safetensors", 5, None]
)
def test_an_index_that_leads_elsewhere_leaves_none(model: Path, part: object) -> None:
    (model / ".hidden.safetensors").write_bytes(b"weights")
    index(model, "a.safetensors", part)
    assert contents_of([model]) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": 1}'])
def test_so_does_an_index_that_is_none(model: Path, text: str) -> None:
    (model / "model.safetensors.index.json").write_text(text)
    assert contents_of([model]) is None


def digest_of(*folders: Path, anew: bool = False) -> str:
    found = contents_of(folders, anew=anew)
    assert found is not None
    return found.digest


def test_in_which_folder_a_file_is_counts(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (model / "tokenizer.json").write_text("{}")
    before = digest_of(model, adapter)
    (model / "tokenizer.json").rename(adapter / "tokenizer.json")
    assert digest_of(model, adapter) != before


def test_of_large_files_those_that_decide_are_read(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_READ_WHOLE_BYTES", 2)
    monkeypatch.setattr(contents, "facts_of", lambda path: (path.stat().st_size, 1, 1, 1))
    (model / "optimizer.pt").write_bytes(b"weights")
    before = digest_of(model, anew=True)
    (model / "optimizer.pt").write_bytes(b"othersX")
    assert digest_of(model, anew=True) == before
    # What was read once, and looks the same, is read again only where that is asked for.
    assert digest_of(model) == before
    (model / "a.safetensors").write_bytes(b"othersX")
    assert digest_of(model) == before
    assert digest_of(model, anew=True) != before


def test_folders_of_too_many_files_have_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(len(files) for _, _, files in os.walk(model)) == 2
    monkeypatch.setattr(contents, "_MOST_FILES", 2)
    assert contents_of([model]) is not None
    monkeypatch.setattr(contents, "_MOST_FILES", 1)
    assert contents_of([model]) is None
