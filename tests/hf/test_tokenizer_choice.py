"""Claims: an adapter's own tokenizer is used where it differs, and said; what was asked for is
taken or refused; an adapter of a model of another name is told.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.hf import HFBackend
from tests.hf import tiny


@pytest.fixture
def adapter(folders: dict[str, Path], tmp_path: Path) -> Path:
    """An adapter whose folder has a tokenizer with one more token and a chat template."""
    folder = Path(shutil.copytree(folders["adapter"], tmp_path / "own"))
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([" quick brown"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    return folder


def tokens(folders: dict[str, Path], adapter: Path, **options: Any) -> int:
    with HFBackend.load(folders["model"], adapter, **options) as backend:
        return int(backend.rolling_logprob("the quick brown fox").num_tokens)


def test_an_adapters_own_tokenizer_is_used_unless_the_models_is_asked_for(
    folders: dict[str, Path], adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tokens(folders, folders["adapter"])
    assert not caplog.messages
    own = tokens(folders, adapter)
    assert own < base
    assert "brings a tokenizer of its own" in caplog.text
    caplog.clear()
    assert tokens(folders, adapter, tokenizer="base") == base
    assert tokens(folders, adapter, tokenizer="adapter") == own
    assert tokens(folders, folders["adapter"], tokenizer=adapter) == own
    assert not caplog.messages
    HFBackend.load(folders["model"], adapter, chat_template=True).close()


def test_the_same_tokenizer_next_to_an_adapter_changes_nothing(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(folders["adapter"], tmp_path / "same"))
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = "</s>"
    tokenizer.save_pretrained(folder)
    assert tokens(folders, folder) == tokens(folders, folders["adapter"])
    assert not caplog.messages


@pytest.mark.parametrize("wanted", ["adapter", "no/such/folder", 3])
def test_a_tokenizer_that_is_not_there_is_refused(folders: dict[str, Path], wanted: Any) -> None:
    with pytest.raises(InvalidInputError, match="tokenizer"):
        HFBackend.load(folders["model"], folders["adapter"], tokenizer=wanted)


@pytest.mark.parametrize(
    ("trained_on", "told"),
    [("someone/other", True), ("/elsewhere/model", False), ("org/Model", False), ("", False)],
)
def test_an_adapter_of_a_model_of_another_name_is_told(
    folders: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    trained_on: str,
    told: bool,
) -> None:
    folder = Path(shutil.copytree(folders["adapter"], tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = trained_on
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    with caplog.at_level(logging.WARNING):
        HFBackend.load(folders["model"], folder).close()
    assert (trained_on in caplog.text and "trained on" in caplog.text) == told
