"""Claims: the contents of folders change with every file that is read, and there are none where an
index of weights leads to a file that isn't among them.
"""

import json
from pathlib import Path

import pytest

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
