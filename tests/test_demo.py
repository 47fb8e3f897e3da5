"""``forwardcache demo``: it runs, its second run runs nothing, and it answers three questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import forwardcache
from forwardcache.__main__ import main
from forwardcache.cli import demo

ASSETS = Path(forwardcache.__file__).parent / "demo"


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_ships_is_small_and_has_its_sources() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    names = {str(path.relative_to(ASSETS)) for path in files}
    assert {"README.md", "LICENSE-PSF.txt", "demo.json", "model/model.safetensors"} <= names
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)


def test_the_prompts_are_a_few_hundred_of_two_styles() -> None:
    prompts = read_lines(ASSETS / "prompts.jsonl")
    assert len(prompts) == len({prompt["prompt"] for prompt in prompts}) == 300
    styles = [prompt["style"] for prompt in prompts]
    assert (styles.count("documentation"), styles.count("log")) == (180, 120)
    assert all(prompt["completion"] for prompt in prompts)


def test_the_second_run_runs_nothing_and_the_adapter_stands_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "new" / "demo"), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)

    first, second = told["runs"]
    assert (first["forward_passes"], first["cache_hits"]) == (1500, 0)
    assert (second["forward_passes"], second["cache_hits"]) == (0, 1500)
    assert second["hit_rate"] == 1.0
    assert told["equal"]
    assert told["seconds_saved"] > 0

    views = {view["view"]: view for view in told["views"]}
    assert set(views) == {"ft", "scaled_0.50", "null_7", "null_8"}
    ends = {name: view["kl_base_nats"]["interval"] for name, view in views.items()}
    nulls = [ends[name][1] for name, view in views.items() if view["is_null"]]
    assert ends["ft"][0] > 10 * max(nulls)
    assert ends["ft"][0] > ends["scaled_0.50"][1] > ends["scaled_0.50"][0] > max(nulls)
    assert views["ft"]["update_norm"] > 2 * views["null_7"]["update_norm"]

    diff = told["diff"]
    assert (diff["reference"], list(diff["views"])) == ("base", ["ft"])
    tuned = diff["views"]["ft"]
    assert tuned["floor"]["distinguishable"]
    assert tuned["nulls"]["n"] == 20
    assert tuned["nulls"]["p"] == tuned["nulls"]["rank"] / 21
    assert 0.0 < tuned["visible_from_lambda"] < 1.0
    questions = [answer[: answer.index("?")] for answer in told["answers"]]
    assert len(set(questions)) == 3
    assert "is distinguishable from floating-point rounding" in told["answers"][0]
    assert "of 20 random changes" in told["answers"][1]
    assert "changed the model" not in str(told["answers"])

    assert len(read_lines(Path(told["rows"]))) == 1500
    assert main(["verify", told["rows"], "--format", "json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert (verified["ok"], verified["rows_checked"], verified["elsewhere"]) == (True, 15, [])
    events = read_lines(Path(told["trace"]))
    labels = [(event["probe"], event["hit"]) for event in events]
    assert labels == [("first run", False)] * 1500 + [("second run", True)] * 1500


def test_the_table_is_for_a_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # As many prompts as an interval takes and a few more: all of them take long.
    lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(lines[:24]), "utf-8")
    monkeypatch.setattr(demo, "PROMPTS", str(tmp_path / "prompts.jsonl"))
    assert main(["demo"]) == 0
    shown = capsys.readouterr()
    for word in ("null_7 (random)", "0.02", "95 % interval", "computed", "second"):
        assert word in shown.out
    for question in ("there at all?", "same weight norm?", "can be seen?"):
        assert question in shown.out
    assert "Not measured" not in shown.out
    assert "forwardcache-demo/trace.jsonl" in shown.out
    assert len(read_lines(tmp_path / "forwardcache-demo" / "trace.jsonl")) == 2 * 24 * 5
    assert "Traceback" not in shown.err


def test_a_folder_that_can_t_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file" / "demo")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
