"""Measures what a plan of many prompts leaves in memory: ``python -m benches.planning``.

The question: how much memory does a process take that plans a job of a million prompts of 300 B,
from lines and from tables, and one of a hundred million, where only lengths and chunks are left?
Each in a process of its own, the highest that its resident memory was (``VmHWM``), imports
included; what the prompts take that one process holds, beside it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

import forwardcache
from benches.machine import description
from benches.sections import BESIDE, Line, publish, table

TITLE = "## A plan of many prompts: memory"
PROMPT_BYTES = 300
TOKENS = 75
SOURCES = Path(forwardcache.__file__).parents[1]
NOTES = """\
- A prompt leaves its length, 4 B; a chunk 60 B and, where lines between its prompts are none, a
  run of them. Lines are read again from where a chunk begins when they are sent.
- A table's rows are read a page at a time, and what was read of a mapped file is given back: else
  its pages would count as the process's own.
"""

# Of a process: prints the most memory it had, MB, the seconds of CPU time, and its chunks.
TAIL = """
import json, time
[line] = [each for each in open("/proc/self/status") if each.startswith("VmHWM")]
print(json.dumps([int(line.split()[1]) / 1024, time.process_time(), chunks]))
"""
PLANNED = f"""
import sys
from forwardcache.jobs.prompt_source import open_source
from forwardcache.jobs.prompt_source.plan import Plan
plan = Plan(open_source(sys.argv[1]))
plan.read(lambda block: [{TOKENS}] * len(block))
chunks = len(plan.chunks())
for chunk in plan.chunks():
    plan.lines_of(chunk)
"""
HELD = """
import sys
try:
    from forwardcache.jobs.prompts import read_prompts
except ImportError:  # The build of 0df6753 has it elsewhere.
    from forwardcache.cli.prompts import read_prompts
source = read_prompts(sys.argv[1])
items = source.items("next_token_dist")
chunks = 0
"""
SYNTHETIC = f"""
import sys
from forwardcache.jobs.prompt_source import Block
from forwardcache.jobs.prompt_source.plan import Plan
class Source:
    name, kind = "synthetic", "text"
    def blocks(self):
        raws = [b"x" * {PROMPT_BYTES}] * 1024
        for first in range(1, int(sys.argv[1]), 1024):
            numbers = range(first, first + 1024)
            yield Block(0, numbers, numbers, raws)
    def digest(self):
        return "of no file"
plan = Plan(Source())
lengths = [{TOKENS}] * 1024
plan.read(lambda block: lengths)
chunks = len(plan.chunks())
"""


def run(code: str, given: str, sources: Path = SOURCES) -> tuple[float, float, int]:
    """Megabytes, seconds of CPU time and chunks of a process."""
    done = subprocess.run(
        [sys.executable, "-c", code + TAIL, given],
        env={**os.environ, "PYTHONPATH": str(sources)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    megabytes, seconds, chunks = json.loads(done.stdout)
    return megabytes, seconds, chunks


def write_prompts(folder: Path, count: int) -> dict[str, Path]:
    """The same prompts as lines, as a Parquet file of one group of rows, and as batches."""
    texts = [
        f"{number:09d} ".ljust(PROMPT_BYTES - len('{"prompt": ""}'), "x") for number in range(count)
    ]
    lines = folder / "p.jsonl"
    lines.write_text("".join(f"{json.dumps({'prompt': text})}\n" for text in texts))
    rows = pa.table({"prompt": texts})
    pa.parquet.write_table(rows, folder / "p.parquet", row_group_size=count)
    saved = folder / "saved"
    saved.mkdir()
    with pa.ipc.new_stream(saved / "data.arrow", rows.schema) as stream:
        stream.write_table(rows, max_chunksize=1000)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return {"JSON lines": lines, "Parquet": folder / "p.parquet", "a `datasets` folder": saved}


def section(prompts: int, many: int) -> str:
    with tempfile.TemporaryDirectory() as name:
        files = write_prompts(Path(name), prompts)
        planned = {kind: run(PLANNED, str(path)) for kind, path in files.items()}
        held = {"this build": run(HELD, str(files["JSON lines"]))}
        if BESIDE:
            other = Path(BESIDE, "python")
            held["the other build"] = run(HELD, str(files["JSON lines"]), other)
    large = run(SYNTHETIC, str(many))
    figures = [
        Line(f"{prompts:,} prompts of {PROMPT_BYTES} B planned and read again, {kind}",
             "300", "150", found[0], "about 1 GB", " MB")
        for kind, found in planned.items()
    ]  # fmt: skip
    figures.append(Line(f"{many:,} prompts planned", "2,000", "", large[0], unit=" MB"))
    costs = [*planned.items(), *((f"all held, {name}", found) for name, found in held.items())]
    return "\n".join(
        [
            TITLE,
            "",
            *description("benches.planning", ["pyarrow"]),
            f"- {TOKENS} tokens a prompt; the {many:,} are made, not read.",
            "",
            *table(figures),
            "",
            "| | memory, MB | CPU, us a prompt |",
            "|---|---|---|",
            *(
                f"| {kind} | {found[0]:,.0f} | {found[1] / prompts * 1e6:.1f} |"
                for kind, found in costs
            ),
            f"| {many:,}, made | {large[0]:,.0f} | {large[1] / many * 1e6:.1f} |",
            "",
            NOTES,
        ]
    )


if __name__ == "__main__":
    publish(section, __doc__, prompts=1_000_000, many=100_000_000)
