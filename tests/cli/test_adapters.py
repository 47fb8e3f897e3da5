"""Claims: ``score`` runs several adapters, given by name or in a folder; rows, facts, table, trace
and page have their names; a part goes on with the same ones only; ``verify`` scores the rows again;
what is no adapter, or is called what it can't be, is one clear line before a model is loaded.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from forwardcache.jobs.metadata import folder_facts
from forwardcache.jobs.options import ModelOptions, NamedAdapter
from forwardcache.observe.report.scores import score_figures
from tests.cli.conftest import ASSETS, Ended, Run, first, read_rows

NAMES = ("checkpoint-100", "checkpoint-1000")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of one run, and what lies beside them."""
    root = tmp_path_factory.mktemp("run")
    for factor, name in enumerate(NAMES, 1):
        shutil.copytree(ASSETS / "adapter", root / name)
        weights = load_file(root / name / "adapter_model.safetensors")
        scaled = {key: each * (0.5 * factor) for key, each in weights.items()}
        save_file(scaled, root / name / "adapter_model.safetensors")
    (root / "runs").mkdir()
    return root


def scored(run: Run, prompts: Path, *words: Any) -> Ended:
    return run("score", "--model", ASSETS / "model", "--dtype", "float32", "--prompts", prompts,
               *words)  # fmt: skip


def test_rows_of_every_adapter_are_those_of_it_alone(
    run: Run, prompts: Path, folder: Path, tmp_path: Path
) -> None:
    few, out, trace = first(prompts, 3), tmp_path / "rows.jsonl", tmp_path / "trace.jsonl"
    ended = scored(run, few, "--adapters", folder, "--out", out, "--trace", trace)
    assert ended.code == 0, ended.err
    rows = read_rows(out)
    views = ["base", *(f"ft:{name}" for name in NAMES)]
    assert [row["view"] for row in rows] == views * 3
    events = [json.loads(line) for line in trace.read_text("utf-8").splitlines()]
    assert {event["view_id"] for event in events} == set(views)
    assert all(f"ft:{name}" in ended.out for name in NAMES)
    name = NAMES[0]
    alone = scored(run, few, "--adapter", folder / name, "--views", "ft")
    kept = [row for row in rows if row["view"] == f"ft:{name}"]
    assert [row["logprobs"] for row in kept] == [row["logprobs"] for row in alone.rows]
    facts = json.loads((tmp_path / "rows.jsonl.meta.json").read_text("utf-8"))
    assert [(each["name"], each["folder"]) for each in facts["adapters"]] == [
        (name, str(folder / name)) for name in NAMES
    ]
    assert facts["adapter"] is None
    assert len({each["digest"] for each in facts["adapters"]}) == 2
    figures = score_figures(out)
    assert all(f"ft:{name} is " in figures["verdict"] for name in NAMES)
    assert {row["line"] for row in figures["moved"]} == {1, 2, 3}


def test_each_adapter_is_held_against_its_own_nulls(run: Run, prompts: Path, folder: Path) -> None:
    named = [f"--adapter=weak={folder / NAMES[0]}", f"--adapter=strong={folder / NAMES[1]}"]
    views = "base,ft:weak,ft:strong,null:1:matched:weak,null:1:matched:strong"
    ended = scored(run, first(prompts, 3), *named, "--views", views, "--format", "json")
    printed = ended.err[ended.err.index("{") : ended.err.rindex("}") + 1]
    told = {each["view"]: each for each in json.loads(printed)["views"]}
    assert [told[f"ft:{name}"]["nulls"]["n"] for name in ("weak", "strong")] == [1, 1]
    weak, strong = (told[f"null_1_matched:{name}"]["update_norm"] for name in ("weak", "strong"))
    # Half of A and half of B are a quarter of their product.
    assert strong == pytest.approx(4 * weak, rel=0.01)


def test_verify_scores_them_again_wherever_they_are(
    run: Run, prompts: Path, folder: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    shutil.copytree(folder, here)
    out = tmp_path / "rows.jsonl"
    views = f"ft:{NAMES[1]},base,scaled:0.5:{NAMES[1]}"
    assert scored(run, first(prompts, 2), "--adapters", here, "--views", views,
                  "--out", out).code == 0  # fmt: skip
    # What no row is of need not be there.
    shutil.rmtree(here / NAMES[0])
    good = run("verify", out, "--share", 1)
    assert good.code == 0, good.err
    assert "all as recorded" in good.out
    shutil.rmtree(here)
    run("verify", out).refused(f"--adapter {NAMES[1]}=DIR")
    assert run("verify", out, "--adapters", folder).code == 0
    run("verify", out, "--adapter", f"other={folder / NAMES[1]}").refused("'other'", NAMES[1])
    run("verify", out, "--adapter", f"{NAMES[1]}={folder / NAMES[0]}").refused("digest")


def test_a_part_goes_on_with_the_same_adapters_only(folder: Path) -> None:
    def facts(**folders: str) -> Any:
        named = tuple(NamedAdapter(name, str(folder / at)) for name, at in folders.items())
        return folder_facts(ModelOptions(str(ASSETS / "model"), named))

    same = facts(a=NAMES[0])
    assert same == facts(a=NAMES[0])
    for other in ({"a": NAMES[1]}, {"b": NAMES[0]}, {"a": NAMES[0], "b": NAMES[1]}):
        assert facts(**other) != same


def test_dry_run_knows_what_the_store_has_of_each(
    run: Run, prompts: Path, folder: Path, tmp_path: Path
) -> None:
    few, store = first(prompts, 2), tmp_path / "values.db"
    assert scored(run, few, f"--adapter=a={folder / NAMES[0]}", "--store", store).code == 0
    both = [f"--adapter=x={folder / NAMES[1]}", f"--adapter=y={folder / NAMES[0]}"]
    told = scored(run, few, *both, "--store", store, "--dry-run", "--format", "json")
    shares = {each["view"]: each["to_run"] for each in json.loads(told.out)["views"]}
    assert shares == {"base": 0, "ft:x": 2, "ft:y": 0}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--adapter", "{}/a", "--adapter", "{}/b"], ["need a name each"]),
        (["--adapter", "a={}/{}", "--adapter", "a={}/{}"], ["two adapters are called 'a'"]),
        (["--adapter", "base={}"], ["'base'", "a view is called so"]),
        (["--adapter", "a={}"], ["no adapter_config.json"]),
        (["--adapter", "a={}/nothing"], ["no such folder"]),
        (["--adapters", "{}/nothing"], ["no such folder"]),
        (["--adapters", "{}/runs"], ["none of its sub-folders"]),
        (["--adapters", "{}", "--views", "ft"], ["which adapter", *NAMES]),
        (["--adapters", "{}", "--views", "base,ft:checkpoint-7"], ["'checkpoint-7'", *NAMES]),
        (["--adapters", "{}", "--adapter", "checkpoint-100={}"], ["two adapters"]),
    ],
)
def test_what_can_not_be_is_one_line_before_anything_is_loaded(
    run: Run, prompts: Path, folder: Path, words: list[str], told: list[str]
) -> None:
    given = [word.replace("{}", str(folder)) for word in words]
    scored(run, prompts, *given).refused(*told)


def test_an_adapter_of_another_model_is_named(
    run: Run, prompts: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / NAMES[0], tmp_path / "wider")
    path = tmp_path / "wider" / "adapter_model.safetensors"
    save_file({name: each.repeat(2, 1) for name, each in load_file(path).items()}, path)
    given = f"--adapter=a={folder / NAMES[0]}", f"--adapter=b={tmp_path / 'wider'}"
    scored(run, prompts, *given).refused("adapter 'b'", "wider")
