"""Claims: a position that is no number is never taken for kept: with a bound the exit status is 2,
or 1 where the rest is beyond it; how many of how many is said in JSON, JUnit and standard error.
"""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.cli.conftest import ASSETS, Run

BOUNDS = ["--expect", "changed", "--max-kl", "100", "--max-ppl-ratio", "50", "--min-same-top", "0"]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """An adapter on embeddings that makes one token no number, over 24 texts of which two have it.

    That token is the last one that a text reads, so that only what it predicts is no number.
    """
    folder = tmp_path_factory.mktemp("no_number")
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "model")
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "model")
    lines = [json.loads(line) for line in (ASSETS / "prompts.jsonl").read_text().splitlines()[:24]]
    wanted = tokenizer.encode(" qq zz", add_special_tokens=False)[-1]
    torch.manual_seed(0)
    tuned = get_peft_model(
        model, LoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False)
    )
    for name, weights in tuned.named_parameters():
        if "lora_embedding_A" in name:
            weights.data[:, wanted] = torch.nan
    tuned.save_pretrained(str(folder / "adapter"))
    texts = [line["prompt"][:40] for line in lines]
    texts = [text + " qq zz end" if at in {3, 9} else text for at, text in enumerate(texts)]
    assert sum(wanted in tokenizer.encode(text) for text in texts) == 2
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    given = ["--model", ASSETS / "model", "--adapter", folder / "adapter", "--texts", path]
    return ["diff", *given, "--dtype", "float32", "--nulls", 0]


def test_what_is_no_number_is_never_kept(options: list[object], run: Run, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    ended = run(*options, *BOUNDS, "--junit", junit, "--format", "json")
    assert ended.code == 2, ended.err
    found = json.loads(ended.out)
    view = found["views"]["ft"]
    assert view["left_out"] > 0
    count = f"{view['left_out']} of {view['left_out'] + view['positions']} positions"
    assert found["notes"][0].startswith(f"ft: {count} hold")
    assert [one["state"] for one in view["outcomes"]] == ["undecided"] * 4
    assert [one["bound"] for one in view["outcomes"]][:2] == ["expect", "max_kl"]
    assert all(count in one["line"] for one in view["outcomes"])
    cases = list(ElementTree.parse(junit).iter("testcase"))
    assert [[part.tag for part in case] for case in cases] == [["error"]] * 4
    assert all(count in str(case[0].get("message")) for case in cases)
    assert ended.err.count(count) == 5
    broken = run(*options, "--max-kl", "1e-9")
    assert (broken.code, count in broken.err, count in broken.out) == (1, True, True)


def test_without_a_bound_it_is_said(options: list[object], run: Run, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    ended = run(*options, "--junit", junit, "--format", "json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["views"]["ft"]["outcomes"] == []
    (told,) = ElementTree.parse(junit).iter("system-out")
    assert str(told.text).startswith("No bound was set")
    for said in (ended.err, str(told.text)):
        assert "hold a value that is no number" in said
