"""``diff`` over strengths and adapters, and gone on with.

Claims: ``--lambdas`` compares each adapter at each strength, 1 being the adapter itself; of each
adapter of a folder a sweep finds what a run of it alone finds, nulls of its own among it, with one
floor for all; how often adapters are loaded again is in the estimate; an interrupted run says what
it kept and goes on with the same rows; with ``--on-error skip`` an adapter that doesn't fit leaves
the others alone; what can't be meant is refused in one line before a model is loaded.

Not here: that what goes on finds the same (``jobs/test_diff_resume.py``).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file, save_file

from forwardcache.cli.diff_estimate import Estimate, estimate
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.results import PartFile
from forwardcache.jobs.views import View
from tests.cli.conftest import ASSETS, Run, first, read_rows
from tests.cli.test_diff_parts import TEXTS, plan_of
from tests.tolerance import TOLERANCE


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoints are shares of the demo's adapter, of which the second is a twin."""
    folder = tmp_path_factory.mktemp("run")
    tensors = load_file(ASSETS / "adapter" / "adapter_model.safetensors")
    for step, share in {100: 0.25, 20: -0.25, 3: 1.0}.items():
        scaled = {name: one * share if "lora_B" in name else one for name, one in tensors.items()}
        one = folder / f"checkpoint-{step}"
        one.mkdir()
        shutil.copy(ASSETS / "adapter" / "adapter_config.json", one)
        save_file(scaled, one / "adapter_model.safetensors")
    return folder


def test_of_each_adapter_a_sweep_finds_what_its_own_run_finds(
    run: Run, checkpoints: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    words = ["diff", "--model", ASSETS / "model", "--dtype", "float32", "--nulls", 2]
    words += ["--texts", first(prompts, 3), "--lambdas", "0.5,1", "--format", "json"]
    ended = run(*words, "--adapters", checkpoints, "--out", out)
    assert ended.code == 0, ended.err
    views = json.loads(ended.out)["views"]
    steps = [3, 20, 100]
    assert [(one["adapter"], one["step"], one["lambda"]) for one in views.values()] == [
        (f"checkpoint-{step}", step, lam) for step in steps for lam in (0.5, 1.0)
    ]
    assert {one["nulls"]["compared"] for one in views.values()} == {6}
    assert len({json.dumps(one["floor"]["mean"]) for one in views.values()}) == 1
    rows = read_rows(out)
    assert [row["view"] for row in rows] == list(views) * 3
    alone = run(*words, "--adapter", checkpoints / "checkpoint-100")
    for name, one in json.loads(alone.out)["views"].items():
        swept = views[f"{name}:checkpoint-100"]
        for figure in ("mean", "p99", "max"):
            assert swept["kl"][figure] == pytest.approx(one["kl"][figure], abs=TOLERANCE)
        for figure in ("mean", "max", "value"):
            assert swept["nulls"][figure] == pytest.approx(one["nulls"][figure], abs=TOLERANCE)
    assert "with 3 adapters" in ended.err


def test_loads_of_adapters_are_in_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"a{number}" for number in range(5)]
    views = tuple(View("ft", adapter=name) for name in names)
    plan = replace(plan_of(TEXTS), views=views, chunk_tokens=2)
    monkeypatch.setattr("forwardcache.cli.diff_estimate._seconds_a_token", lambda *_: 0.0)
    options = DiffOptions(loading=ModelOptions("model"), texts="texts.txt", nulls=3)
    found = {}
    for most in (None, 5, 4):
        adapters = SimpleNamespace(most_in_memory=most, seconds_a_load=0.5)
        session = SimpleNamespace(
            backend=SimpleNamespace(_scorer=SimpleNamespace(adapters=adapters))
        )
        found[most] = estimate(session, plan, options)  # type: ignore[arg-type]
    assert [one.loads for one in found.values()] == [0, 0, 5 * len(list(plan.chunks())) + 5]
    assert found[4].seconds == pytest.approx(0.5 * found[4].loads)
    assert f"with 5 adapters, loaded {found[4].loads} times," in found[4].line()


def test_lambdas_are_strengths_of_the_adapter(diff: Run, prompts: Path) -> None:
    ended = diff("--texts", first(prompts, 2), "--lambdas", "-1,0.25,1,1.5", "--format", "json")
    assert ended.code == 0, ended.err
    views = json.loads(ended.out)["views"]
    assert list(views) == ["scaled_-1.00", "scaled_0.25", "ft", "scaled_1.50"]
    told = [(one["adapter"], one["lambda"], one["step"]) for one in views.values()]
    assert told == [(None, lam, None) for lam in (-1.0, 0.25, 1.0, 1.5)]
    assert views["scaled_0.25"]["kl"]["mean"] < views["ft"]["kl"]["mean"]


@pytest.mark.parametrize(
    ("texts", "done", "of_others", "sampled", "said"),
    [
        (3, 2, 0, 0, "3 texts are read 2 times: "),
        (1, 5, 0, 0, "1 text is read 2 times: "),
        (3, 2, 1, 0, "3 texts are read 2 times, 2 of before 1 time for other models: "),
        (0, 5, 2, 0, "5 of before 2 times for other models: "),
        (0, 5, 0, 0, "no text is left to be compared: "),
        (0, 5, 0, 4, "no text is left to be compared, 4 are read 3 times for the floor: "),
        (3, 2, 0, 4, "3 texts are read 2 times, 4 of them 3 times for the floor: "),
    ],
)
def test_the_estimate_of_a_run_that_goes_on_is_of_what_is_left(
    texts: int, done: int, of_others: int, sampled: int, said: str
) -> None:
    found = Estimate(
        texts=texts, passes=2, sampled=sampled, reruns=3 if sampled else 0, nulls=0, detect=0,
        forwards=1, tokens=1, seconds=1.6, done=done, of_others=of_others,
    )  # fmt: skip
    assert found.line() == f"{said}1 forwards of 1 token, about 0:00:02"


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    diff: Run, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwardcache.jobs.diff.plan.CHUNK_TOKENS", 1)
    monkeypatch.setattr("forwardcache.jobs.diff.plan._chunk_tokens", lambda *_: 60)
    texts, out = first(prompts, 6), tmp_path / "rows.parquet"
    words = ["--texts", texts, "--out", out, "--format", "json"]
    write, written = PartFile.write, list[int]()

    def interrupting(self: PartFile, rows: list[object]) -> None:
        write(self, rows)  # type: ignore[arg-type]
        written.append(len(rows))
        if len(written) == 5:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartFile, "write", interrupting)
        ended = diff(*words)
    assert ended.code == 130
    said = ended.err.splitlines()[-1]
    assert f"texts are in {out}.part, the same command with --resume goes on" in said
    diff(*words).refused(f"{out}.part is there from an unfinished run")
    diff(*words, "--resume", "--skip-first", 1).refused("belongs to another job (other skip_first)")
    diff(*words, "--resume", "--dry-run").refused("--dry-run doesn't go with --resume")
    ended = diff(*words, "--resume")
    assert ended.code == 0, ended.err
    done = int(said.split("the rows of ")[1].split()[0])
    assert 0 < done < 6
    assert f"going on after {done} of 6 texts" in ended.err
    what = "text is" if done == 5 else "texts are"
    assert f"forwardcache: {6 - done} {what} read 2 times: " in ended.err
    assert json.loads(ended.out)["texts"] == 6
    names = {path.name for path in tmp_path.glob("rows*")}
    assert names == {"rows.parquet", "rows.parquet.meta.json"}


def test_texts_whose_states_are_kept_are_not_read_again(
    diff: Run, prompts: Path, tmp_path: Path
) -> None:
    words = ["--texts", first(prompts, 3), "--keep", "states", "--store", tmp_path / "kept.db"]
    words += ["--format", "json", "--lambdas", "0.5,1"]
    assert diff(*words, "--dry-run").code == 0
    assert not (tmp_path / "kept.db").exists()
    before, again = diff(*words), diff(*words, "--skip-first", 1)
    assert before.code == again.code == 0, again.err
    found = [line for line in again.err.splitlines() if "store: " in line]
    assert found == ["forwardcache: store: 9 values found, 0 computed and kept"]
    views = [json.loads(one.out)["views"]["ft"] for one in (before, again)]
    # A completion's positions are behind the first, so that both are over the same ones.
    assert views[0]["kl"]["mean"] == pytest.approx(views[1]["kl"]["mean"], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lambdas", "0.5,half"], "--lambdas: 'half' is not a finite number"),
        (["--lambdas", "0.5,nan"], "'nan' is not a finite number"),
        (["--lambdas", ""], "--lambdas: '' is not a finite number"),
        (["--lambdas", "0.5,1,0.50"], "0.5 stands there twice"),
        (["--lambdas", "1,-0"], "0 times an adapter is base"),
        (["--lambdas", "0.5", "--views", "ft"], "--lambdas and --views both say"),
        (["--resume"], "--resume needs --out"),
        (["--store", "kept.db"], "--store kept.db needs --keep states"),
        (["--adapters", "nowhere"], "--adapters nowhere: there is no such folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], said: str, diff: Run, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwardcache.cli.diff.load", None)
    diff("--texts", prompts, *words).refused(said)


def test_a_folder_of_adapters_has_some(
    run: Run, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwardcache.cli.diff.load", None)
    words = ["diff", "--model", ASSETS / "model", "--texts", prompts, "--adapters"]
    (tmp_path / "empty").mkdir()
    run(*words, tmp_path / "empty").refused("none of its sub-folders has an adapter_config.json")
    shutil.copytree(ASSETS / "adapter", tmp_path / "run" / "a")
    run(*words, tmp_path / "run" / "a").refused("it is an adapter itself, which --adapter takes")
    run(*words, tmp_path / "run", "--adapter", f"a={ASSETS / 'adapter'}").refused("'a'")


def test_the_others_go_on_where_an_adapter_does_not_fit(
    run: Run, checkpoints: Path, prompts: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoints, tmp_path / "run")
    file = folder / "checkpoint-20" / "adapter_model.safetensors"
    save_file(dict(list(load_file(file).items())[1:]), file)
    words = ["diff", "--model", ASSETS / "model", "--dtype", "float32", "--nulls", 0]
    words += ["--texts", first(prompts, 2), "--adapters", folder]
    run(*words).refused("adapter 'checkpoint-20':", "belongs to another model")
    out = tmp_path / "rows.jsonl"
    ended = run(*words, "--on-error", "skip", "--format", "json", "--out", out)
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert list(told["views"]) == ["ft:checkpoint-3", "ft:checkpoint-100"]
    assert list(told["not_compared"]) == ["ft:checkpoint-20"]
    assert "ft:checkpoint-20 was not compared: the adapter " in ended.err
    assert run("verify", out, "--share", 1).code == 0
    assert run(*words, "--on-error", "skip", "--strict").code == 1
    assert run(*words, "--on-error", "skip", "--max-kl", 100).code == 2
    alone = ["--views", "ft:checkpoint-20", "--on-error", "skip"]
    run(*words, *alone).refused("nothing is left to be compared: adapter 'checkpoint-20'")


def test_lambdas_without_an_adapter_are_refused(run: Run, prompts: Path) -> None:
    words = ["diff", "--model", ASSETS / "model", "--texts", prompts, "--lambdas", "0.5"]
    run(*words, f"--other=same={ASSETS / 'model'}").refused("--lambdas are strengths of an adapter")
