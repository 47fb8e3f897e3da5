"""Every mistake ends in one clear line, exit 2, and nothing under the final name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import ASSETS, Run

MODEL = ASSETS / "model"
ADAPTER = ASSETS / "adapter"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo's model that may be broken."""
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


@pytest.fixture
def no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that gets as far as loading a model."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("forwardcache.jobs.recall.run.load", load)


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--views", "base,tuned"), "unknown view 'tuned'"),
        (("--views", "scaled:half"), "lambda 'half'"),
        (("--views", "ft,ft"), "ft twice"),
        (("--op", "perplexity"), "perplexity"),
        (("--top-k", "0"), "--top-k"),
        (("--top-k", "many"), "--top-k"),
        (("--top-k", str(10**23)), "2147483647"),
        (("--views", ""), "unknown view ''"),
        (("--views", f"null:{'9' * 5000}"), "below 2^63"),
        (("--chat-template", "--op", "rolling_logprob"), "--chat-template doesn't go with"),
        (("--format", "yaml"), "yaml"),
        (("--colour",), "--colour"),
        (("surplus",), "surplus"),
        (("--adapter", "nowhere"), "--adapter nowhere: there is no such folder"),
        (("--adapter", str(MODEL)), "no adapter_config.json"),
        (("--model", "nowhere"), "--allow-download"),
        (("--model", str(ASSETS)), "no config.json"),
        (("--model", str(ADAPTER)), "which --adapter takes"),
        (("--prompts", "nowhere.txt"), "nowhere.txt"),
        (("--op", "logprob_of", "--prompts", "-"), "standard input line 1: no completion"),
        (("--resume",), "--resume needs --out"),
        (("--out", "rows.csv"), ".parquet"),
        (("--out", "."), "--out . is a folder: only --parts writes one"),
        (("--out", "no/such/rows.jsonl"), "no folder no/such"),
        (("--trace", "/"), "--trace / is a folder"),
        (("--trace", f"{__file__}/trace.jsonl"), "there is no folder"),
        (("--trace", "no-such-folder/trace.jsonl"), "there is no folder no-such-folder"),
    ],
)
def test_what_needs_no_model_is_refused_before_it_is_loaded(
    score: Run, prompts: Path, options: tuple[str, ...], word: str
) -> None:
    score("--prompts", prompts, *options, stdin=b"one\n").refused(word)


@pytest.mark.usefixtures("no_load")
def test_views_of_an_adapter_need_one(run: Run, prompts: Path) -> None:
    ended = run("score", "--model", MODEL, "--prompts", prompts, "--views", "base,ft")
    ended.refused("view ft needs an adapter")


@pytest.mark.usefixtures("no_load")
def test_an_output_that_is_there_is_not_replaced(score: Run, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("mine\n")
    for options in ((), ("--resume",)):
        score("--prompts", prompts, "--out", out, *options).refused("--force")
    assert out.read_text() == "mine\n"
    score("--prompts", prompts, "--out", prompts, "--force").refused("also the file of the prompts")
    score("--prompts", prompts, "--out", out, "--trace", out, "--force").refused(
        "file of the trace"
    )
    (tmp_path / "folder.jsonl").mkdir()
    score("--prompts", prompts, "--out", tmp_path / "folder.jsonl", "--force").refused(
        "is a folder"
    )


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize("name", ["prompts.jsonl", "link.jsonl", "hard.jsonl"])
def test_the_trace_is_not_written_into_the_prompts(score: Run, prompts: Path, name: str) -> None:
    before = prompts.read_bytes()
    prompts.with_name("link.jsonl").symlink_to(prompts)
    prompts.with_name("hard.jsonl").hardlink_to(prompts)
    trace = prompts.with_name(name)
    score("--prompts", prompts, "--trace", trace).refused("also the file of the prompts")
    assert prompts.read_bytes() == before


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_the_store_is_nothing_else(score: Run, prompts: Path, tmp_path: Path, suffix: str) -> None:
    score("--prompts", prompts, "--store", prompts).refused("also the file of the prompts")
    store = tmp_path / "rows.jsonl"
    same = tmp_path / f"rows.jsonl{suffix}"
    for place in (str(store), f"{store},redis://127.0.0.1:1"):
        options = ("--prompts", prompts, "--store", place)
        score(*options, "--trace", same).refused("--store", "also the file of the trace")
        if not suffix:
            score(*options, "--out", same).refused("--out", "also the file of the store")
    assert not store.exists()


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize("suffix", ["", ".part", ".part.job", ".tmp"])
def test_a_file_that_a_run_writes_is_nothing_else(score: Run, prompts: Path, suffix: str) -> None:
    out = prompts.with_name("rows.jsonl")
    taken = prompts.with_name(out.name + suffix)
    score("--prompts", prompts, "--out", out, "--trace", taken).refused(str(taken), "file of the")
    assert not taken.exists()
    taken.write_bytes(prompts.read_bytes())
    score("--prompts", taken, "--out", out, "--force").refused(str(taken), "file of the prompts")
    assert taken.read_bytes() == prompts.read_bytes()


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_no_prompts_are_no_job(score: Run, content: bytes) -> None:
    score("--prompts", "-", stdin=content).refused("standard input holds no prompt")


@pytest.mark.usefixtures("no_load")
def test_a_line_that_is_no_prompt_is_named(score: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"promt": "b"}\n')
    score("--prompts", path).refused(f"{path} line 2", 'no "prompt"')


@pytest.mark.parametrize("command", [(), ("scor",), ("score",), ("demo", "--fast")])
def test_wrong_use_is_one_line(run: Run, command: tuple[str, ...]) -> None:
    run(*command).refused("--help")


def test_a_prompt_over_the_context_is_named(score: Run, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    long = b"short\n\n" + b"word " * 300 + b"\n"
    ended = score("--prompts", "-", "--out", out, stdin=long)
    ended.refused("standard input line 3", "context length of 256")
    assert not list(tmp_path.iterdir())


def test_a_completion_that_adds_nothing_is_named(score: Run) -> None:
    ended = score(
        "--prompts", "-", "--op", "logprob_of", stdin=b'{"prompt": "a", "completion": ""}'
    )
    ended.refused("standard input line 1", "completion is empty")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{not json"),
        ("config.json", '{"model_type": "no_such_model"}'),
        ("model.safetensors", "torn"),
        ("model.safetensors", None),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", None),
    ],
)
def test_a_broken_model_is_refused(
    run: Run, prompts: Path, model: Path, name: str, content: str | None
) -> None:
    (model / name).unlink()
    if content is not None:
        (model / name).write_text(content)
    out, trace = model / "rows.jsonl", model / "trace.jsonl"
    options = ("--prompts", prompts, "--out", out, "--trace", trace)
    run("score", "--model", model, *options).refused(str(model))
    assert not out.exists()
    assert not trace.exists()


def test_what_is_refused_after_loading_leaves_no_trace(
    score: Run, prompts: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    score("--prompts", prompts, "--chat-template", "--trace", trace).refused("has none")
    assert not trace.exists()


@pytest.mark.parametrize("content", ["torn", None])
def test_a_broken_adapter_is_refused(
    run: Run, prompts: Path, tmp_path: Path, content: str | None
) -> None:
    adapter = Path(shutil.copytree(ADAPTER, tmp_path / "adapter"))
    (adapter / "adapter_model.safetensors").unlink()
    if content is not None:
        (adapter / "adapter_model.safetensors").write_text(content)
    run("score", "--model", MODEL, "--adapter", adapter, "--prompts", prompts).refused(str(adapter))


def test_an_adapter_of_another_rank_is_told_by_its_first_weight(
    run: Run, prompts: Path, tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(ADAPTER, tmp_path / "adapter"))
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 4}), "utf-8")
    ended = run("score", "--model", MODEL, "--adapter", adapter, "--prompts", prompts)
    ended.refused(str(adapter), "layers.0.self_attn.q_proj.lora_A", "[8, 128]", "[4, 128]")


def test_an_adapter_of_another_model_is_refused(run: Run, prompts: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1024, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(tmp_path / "other")
    ended = run("score", "--model", tmp_path / "other", "--adapter", ADAPTER, "--prompts", prompts)
    ended.refused("adapter")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--device", "abacus"), "abacus"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--dtype", "int8"), "int8"),
        (("--dtype", "float33"), "float33"),
        (("--chat-template",), "has none"),
    ],
)
def test_options_that_this_model_or_machine_can_t_meet(
    score: Run, prompts: Path, options: tuple[str, ...], word: str
) -> None:
    score("--prompts", prompts, *options).refused(word)


def test_a_trace_that_can_t_be_opened_is_refused(score: Run, prompts: Path) -> None:
    score("--prompts", prompts, "--trace", prompts / "trace.jsonl").refused("prompts.jsonl")


def test_memory_that_runs_out_is_the_machine_s(
    score: Run, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9e9 bytes")

    monkeypatch.setattr("forwardcache.hf.HFBackend.load", load)
    score("--prompts", prompts).refused("out of memory", code=3)
