"""Claims: a folder gives the model that was saved in it, or one clear line that says why not."""

import json
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from forwardcache.errors import AdapterError, ModelLoadError, UnsupportedModelError
from forwardcache.hf import HFBackend
from forwardcache.hf.model.load import load_model
from tests.hf import tiny

PROMPT = "the quick brown fox"


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Any:
    """A folder that the test may break."""
    return lambda name: Path(shutil.copytree(folders[name], tmp_path / name))


def one_line(error: Exception) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_a_loaded_model_scores_as_the_saved_one(folders: dict[str, Path], tokenizer: Any) -> None:
    model = tiny.with_lora(tiny.llama())
    expected = HFBackend(model, tokenizer).next_token_dist(PROMPT)
    loaded = HFBackend.load(folders["model"], folders["adapter"], device="cpu")
    found = loaded.next_token_dist(PROMPT)
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert abs(found.logprobs - expected.logprobs).max() < 1e-5
    assert not loaded.model.training
    with loaded.as_base() as base:
        assert base.next_token_dist(PROMPT) != found


@pytest.mark.thread_unsafe(reason="makes every warning of the process an error")
def test_loading_warns_of_nothing(folders: dict[str, Path]) -> None:
    with warnings.catch_warnings(action="error"):
        HFBackend.load(folders["model"], folders["adapter"], device="cpu").close()


def test_models_that_are_loaded_at_once_have_their_heads(tmp_path: Path) -> None:
    model = tiny.llama(layers=8)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    options: dict[str, Any] = {"device": "cpu", "dtype": "auto", "allow_download": False}
    with ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(load_model, str(tmp_path), **options) for _ in range(16)]
    assert {load.result().lm_head.weight.device.type for load in loads} == {"cpu"}


def test_options_go_to_the_backend(folders: dict[str, Path]) -> None:
    loaded = HFBackend.load(str(folders["model"]), add_special_tokens=False, cache_maxsize=2)
    assert loaded.instrumentation.cache.maxsize == 2
    assert 0 not in loaded.rolling_logprob(PROMPT).token_ids


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("float16", None)])
def test_dtype_is_the_checkpoints_or_the_one_asked_for(
    dtype: str, expected: Any, folders: dict[str, Path]
) -> None:
    loaded = HFBackend.load(folders["model"], dtype=dtype)
    assert loaded.model.dtype == (expected or torch.float16)
    assert loaded.next_token_dist(PROMPT).is_finite


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is not a folder") as caught:
        HFBackend.load(tmp_path / "nothing")
    assert one_line(caught.value)


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def break_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 64)


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def drop_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def drop_one_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


@pytest.mark.parametrize(
    "breaking",
    [
        break_config,
        break_weights,
        drop_weights,
        drop_config,
        drop_tokenizer,
        drop_one_weight,
        other_shape,
    ],
)
def test_a_broken_folder_is_one_clear_line(breaking: Any, copied: Any) -> None:
    folder = copied("model")
    breaking(folder)
    with pytest.raises(ModelLoadError) as caught:
        HFBackend.load(folder)
    assert str(folder) in one_line(caught.value)


@pytest.mark.parametrize("name", ["deeper", "wider"])
def test_an_adapter_of_another_model_is_refused(name: str, folders: dict[str, Path]) -> None:
    with pytest.raises(AdapterError) as caught:
        HFBackend.load(folders["model"], folders[name])
    assert str(folders[name]) in one_line(caught.value)


def test_a_folder_without_an_adapter_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for folder in (tmp_path, folders["model"], tmp_path / "nothing"):
        with pytest.raises(AdapterError, match="holds no adapter"):
            HFBackend.load(folders["model"], folder)


def test_a_broken_adapter_is_one_clear_line(folders: dict[str, Path], copied: Any) -> None:
    folder = copied("adapter")
    (folder / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(AdapterError) as caught:
        HFBackend.load(folders["model"], folder)
    assert one_line(caught.value)


@pytest.mark.parametrize("options", [{"device": "nonsense"}, {"dtype": "int8"}, {"dtype": "foo"}])
def test_a_device_or_dtype_that_is_not_there_is_refused(
    options: Any, folders: dict[str, Path]
) -> None:
    with pytest.raises(ModelLoadError) as caught:
        HFBackend.load(folders["model"], **options)
    assert one_line(caught.value)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"device": "gpu"}, "auto, cpu, cuda, cuda:1 or another of torch's, got 'gpu'"),
        ({"dtype": "bf16"}, "auto, float32, bfloat16, float16 or another"),
    ],
)
def test_a_name_that_torch_does_not_have_is_told_with_those_that_it_has(
    options: Any, allowed: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(ModelLoadError, match=allowed):
        HFBackend.load(folders["model"], **options)


def test_an_encoder_decoder_is_refused(copied: Any) -> None:
    folder = copied("model")
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        HFBackend.load(folder)


def test_an_error_that_begins_with_a_heading_has_what_follows_it(
    folders: Any, tmp_path: Path
) -> None:
    shutil.copytree(folders["model"], tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).unlink()
    with pytest.raises(ModelLoadError) as raised:
        HFBackend.load(tmp_path / "model")
    assert not str(raised.value).endswith(":")
    assert "\n" not in str(raised.value)


class Panic(BaseException):
    """As a panic in a library's Rust code arrives in Python: no ``Exception``."""


def test_a_panic_while_loading_is_one_clear_error(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def panics(*_: Any, **__: Any) -> Any:
        raise Panic("called `Option::unwrap()`")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", panics)
    with pytest.raises(ModelLoadError, match=r"can't load a tokenizer from .*unwrap"):
        HFBackend.load(folders["model"])
