"""Measures a probe suite on our backend and on its own: ``python -m benches.sway``.

The question: how much sooner is a suite of dlm-sway done on ``HFBackend`` than on dlm-sway's own
backend, when it is run first and when it is run again? It asks for one prompt at a time, in views
that it enters for each. Each process installs nothing: the pinned package lies in a folder of its
own, fetched once by pip; where it can't be had, the section says so. One thread, thread CPU time of
the whole suite, its figures and intervals included.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benches import view_hit
from benches.machine import description
from benches.sections import Line, number, publish, table
from benches.turns import ROOT, in_turn

TITLE = "## A probe suite that asks one prompt at a time"
PACKAGE = "dlm-sway==0.1"
NEEDS = ("pydantic", "yaml", "rich", "typer")
PROMPTS = [f"w{n} w{n + 7} w{5 * n % 512} w{3 * n % 512}" for n in range(1, 25)]


def suite() -> list[dict[str, Any]]:
    """Probes of every kind that needs logits and nothing but texts."""
    triples = [
        {"prompt": prompt, "chosen": f" w{n}", "rejected": f" w{n + 9}"}
        for n, prompt in enumerate(PROMPTS)
    ]
    cases = [
        {"prompt": one, "gold": " w5 w6", "paraphrases": [other, f"w9 {other}"]}
        for one, other in zip(PROMPTS, reversed(PROMPTS), strict=True)
    ]
    return [
        {"name": "null", "kind": "null_adapter", "runs": 3, "cache": False},
        {"name": "kl", "kind": "delta_kl", "prompts": PROMPTS},
        {"name": "ablation", "kind": "adapter_ablation", "prompts": PROMPTS[:8]},
        {"name": "flip", "kind": "preference_flip", "triples": triples},
        {"name": "paraphrase", "kind": "paraphrase_invariance", "cases": cases},
        {"name": "drift", "kind": "calibration_drift", "items_limit": 50},
    ]


def sample(folder: str) -> list[float]:
    """Milliseconds of the suite on its own backend, first and again, and on ours, likewise."""
    sys.path.append(folder)
    # Of no interest to the type checker: it is there while this runs.
    import_module("dlm_sway.probes")
    own: Any = import_module("dlm_sway.backends.hf").HuggingFaceDifferentialBackend
    model_spec: Any = import_module("dlm_sway.core.model").ModelSpec
    from_dict: Any = import_module("dlm_sway.suite.loader").from_dict
    run: Any = import_module("dlm_sway.suite.runner").run

    from forwardcache.hf import HFBackend

    with tempfile.TemporaryDirectory() as kept:
        base, adapter = str(Path(kept) / "base"), str(Path(kept) / "adapter")
        model = view_hit.small(view_hit.LAYERS)
        model.save_pretrained(adapter)
        model.unload().save_pretrained(base)
        tokenizer = view_hit.words()
        tokenizer.eos_token = tokenizer.pad_token = "w1"
        tokenizer.save_pretrained(base)
        given = model_spec(base=base, adapter=Path(adapter), device="cpu", dtype="fp32")
        models = {"base": {"base": base}, "ft": {"base": base, "adapter": adapter}}
        spec = from_dict({"version": 1, "models": models, "suite": suite()})
        taken = []
        for backend in (
            own(base_spec=given, adapter_path=Path(adapter)),
            HFBackend.load(base, adapter, device="cpu"),
        ):
            for _ in range(2):
                began = time.thread_time_ns()
                done = run(spec, backend, skip_preflight=True)
                taken.append((time.thread_time_ns() - began) / 1e6)
                failed = [each for each in done.probes if each.verdict == "error"]
                assert not failed, failed
    return taken


def installed(folder: str) -> str | None:
    """Puts the package into ``folder``; why it can't be had, if it can't."""
    if lacking := [name for name in NEEDS if find_spec(name) is None]:
        return f"it needs {', '.join(lacking)}"
    wanted = ["install", "--quiet", "--no-deps", "--target", folder, PACKAGE]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *wanted], check=False, capture_output=True, text=True
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def section(rounds: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        if (why := installed(folder)) is not None:
            return "\n".join([TITLE, "", f"Not measured: {PACKAGE} can't be had ({why}).", ""])
        [taken] = in_turn("benches.sway", [ROOT], rounds, ["sample", folder])
    first, again = (statistics.median(each[at] / each[at + 2] for each in taken) for at in (0, 1))
    names = ("its own backend, first", "again", "HFBackend, first", "again")
    medians = [statistics.median(each) for each in zip(*taken, strict=True)]
    rows = ["| ms of thread CPU time | |", "|---|---|"]
    rows += [f"| {name} | {number(each)} |" for name, each in zip(names, medians, strict=True)]
    which = f"{PACKAGE.replace('==', ' ')}'s suite on our backend beside its own"
    lines = [
        Line(f"{which}, first run", "1.4", "1.8", first, "0.9 to 1.4", " x", at_least=True),
        Line(f"{which}, second run", "45", "60", again, "20 to 23", " x", at_least=True),
    ]
    told = [
        f"- Command: `python -m benches.sway --rounds {rounds}`",
        *description(packages=["torch", "transformers", "peft"])[1:],
        f"- How: {rounds} processes, both backends in each, one thread, the median.",
        f"- Model: Llama, {view_hit.LAYERS} layers of width 64, LoRA on q and v. Probes: "
        f"{', '.join(each['kind'] for each in suite())}.",
    ]
    return "\n".join([TITLE, "", *told, "", *rows, "", *table(lines), ""])


if __name__ == "__main__":
    if sys.argv[1:2] == ["sample"]:
        print(*sample(sys.argv[2]))
    else:
        publish(section, __doc__, rounds=5)
