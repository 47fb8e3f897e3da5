"""Claims of `make prove`: it counts what is reported and nothing else, goes on where it stopped,
tries a failed seed again, tells of failures, and holds chunks to the sources that they were of.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tools.prove.__main__ import main
from tools.prove.page import ranges
from tools.prove.parts import PARTS, Part, Way
from tools.prove.sources import ROOT, conftests_of, files_of


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose proof is `work.py`, committed."""
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("/target/\n/said\n/PROOF.md\n")
    change(
        tmp_path,
        "print('test a_test ... prove: 8 things'); print('..prove: 2 things\\nprove: 2 others')",
    )
    return tmp_path


def change(root: Path, program: str) -> None:
    told = "import sys; open('said', 'a').write(sys.argv[1] + ' ')\n"
    (root / "work.py").write_text(told + program)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "work")


def way(name: str = "way") -> Way:
    return Way(name, ("{python}", "work.py", f"{name}-{{seed}}"))


def part(*ways: Way, name: str = "part", tested: int = 10, goal: int | None = 40) -> Part:
    return Part(name, "It holds.", "things", tested, goal, ways or (way(),), ("work.py",))


def prove(root: Path, *arguments: str, parts: list[Part] | None = None) -> int:
    return main(arguments, parts or [part()], root)


def said(root: Path) -> list[str]:
    return (root / "said").read_text().split()


def chunks(root: Path) -> list[dict[str, object]]:
    lines = (root / "target" / "prove" / "state.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def row(root: Path) -> list[str]:
    """The first row of the page's table."""
    lines = (root / "PROOF.md").read_text().splitlines()
    return [cell.strip() for cell in next(x for x in lines if x.startswith("| part")).split("|")]


def test_chunks_with_seeds_of_their_own_come_to_the_goal(root: Path) -> None:
    assert prove(root) == 0
    assert said(root) == ["way-1", "way-2", "way-3", "way-4"]
    assert row(root)[1:8] == ["part", "things", "40", "10", "40", "4", "1-4"]
    assert row(root)[9] == "0"
    assert "40 things, 8 others" in (root / "PROOF.md").read_text()
    assert chunks(root)[0]["reported"] == {"things": 10, "others": 2}


def test_a_share_of_the_goal_is_not_less_than_what_is_tested(root: Path) -> None:
    assert prove(root, "--scale", "0.5") == 0
    assert len(said(root)) == 2
    parts = [part(tested=30)]
    assert prove(root, "--scale", "0.1", parts=parts) == 0
    assert len(said(root)) == 3


def test_what_was_done_is_not_done_again(root: Path) -> None:
    prove(root, "--scale", "0.5")
    assert prove(root) == 0
    assert said(root) == ["way-1", "way-2", "way-3", "way-4"]
    assert prove(root) == 0
    assert len(said(root)) == 4


def test_a_torn_last_line_is_a_chunk_to_be_done_again(root: Path) -> None:
    prove(root)
    state = root / "target" / "prove" / "state.jsonl"
    state.write_bytes(state.read_bytes()[:-9])
    assert prove(root) == 0
    assert said(root)[4:] == ["way-4"]
    assert prove(root) == 0
    assert len(said(root)) == 5


def test_a_failure_is_kept_told_and_tried_again(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(root, "print('prove: 10 things'); sys.exit(3 if sys.argv[1] == 'way-2' else 0)")
    assert prove(root) == 1
    assert [(chunk["seed"], chunk["exit"]) for chunk in chunks(root)] == [(1, 0), (2, 3)]
    assert row(root)[3] == "10", "what a failed chunk reports does not count"
    assert row(root)[9] == "0, 3"
    assert "| part | way | 2 | 3 |" in (root / "PROOF.md").read_text()
    assert (root / "target" / "prove" / "logs" / "part-0-2.log").read_text() == "prove: 10 things\n"
    assert prove(root) == 1
    assert said(root) == ["way-1", "way-2", "way-2"]
    change(root, "print('prove: 10 things')")
    assert prove(root) == 0
    assert said(root)[3:] == ["way-1", "way-2", "way-3", "way-4"]
    assert "None." in (root / "PROOF.md").read_text()


def test_a_seed_counts_once(root: Path) -> None:
    prove(root, "--scale", "0.25")
    state = root / "target" / "prove" / "state.jsonl"
    state.write_text(2 * state.read_text())
    assert prove(root, "--minutes", "0") == 0
    assert row(root)[3] == "10"


def test_a_failed_part_keeps_no_other_from_being_proved(root: Path) -> None:
    change(root, "print('prove: 10 things'); sys.exit('bad' in sys.argv[1])")
    parts = [part(way("bad"), name="first"), part()]
    assert prove(root, parts=parts) == 1
    assert row(root)[3] == "40"


def test_a_command_that_reports_nothing_has_failed(root: Path) -> None:
    change(root, "print('prove: 10 others')")
    assert prove(root) == 1
    assert chunks(root)[0]["exit"] == 1


def test_a_command_that_does_not_end_is_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.prove.__main__.LIMIT_S", 0.5)
    change(root, "import time; print('prove: 10 things', flush=True); time.sleep(600)")
    assert prove(root) == 1
    assert chunks(root)[0]["exit"] == 124


def test_what_a_command_left_running_ends_with_it(root: Path) -> None:
    change(
        root,
        "import subprocess\n"
        "left = subprocess.Popen(['sleep', '600'])\n"
        "open('target/left', 'w').write(str(left.pid))\n"
        "print('prove: 40 things')\n",
    )
    assert prove(root) == 0
    left = Path("/proc", (root / "target" / "left").read_text(), "stat")
    # Whoever takes orphans in may not have reaped it yet.
    assert not left.exists() or left.read_text().rpartition(")")[2].split()[0] == "Z"


def test_chunks_of_other_sources_do_not_count(root: Path) -> None:
    prove(root)
    change(root, "print('prove: 20 things')")
    assert prove(root) == 0
    assert said(root)[4:] == ["way-1", "way-2"]
    assert row(root)[3] == "40"
    (root / "page.txt").write_text("no source of the part")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "page")
    assert prove(root) == 0
    assert len(said(root)) == 6


def test_sources_of_a_way_are_its_own(root: Path) -> None:
    (root / "own.txt").write_text("one")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "own")
    parts = [part(way("a"), Way("b", way("b").command, sources=("own.txt",)), goal=20)]
    prove(root, parts=parts)
    (root / "own.txt").write_text("two")
    git(root, "commit", "-qam", "own")
    assert prove(root, parts=parts) == 0
    assert said(root) == ["a-1", "b-1", "b-1"]


def test_sources_that_are_of_no_commit_are_refused(root: Path) -> None:
    (root / "work.py").write_text("pass")
    with pytest.raises(SystemExit, match=r"(?s)a proof is of a commit.*work\.py"):
        prove(root)


def test_ways_are_taken_in_turn(root: Path) -> None:
    assert prove(root, parts=[part(way("a"), way("b"))]) == 0
    assert said(root) == ["a-1", "b-1", "a-2", "b-2"]


def test_ways_that_are_whole_pass_once_each(root: Path) -> None:
    parts = [part(way("a"), way("b"), goal=None)]
    assert prove(root, "--scale", "0.1", parts=parts) == 0
    assert said(root) == ["a-1", "b-1"]
    assert "Shown in full." in (root / "PROOF.md").read_text()


def test_every_part_comes_to_the_tested_number_before_any_goes_on(root: Path) -> None:
    parts = [part(way("a")), part(way("b"), name="other", tested=20)]
    assert prove(root, parts=parts) == 0
    assert said(root)[:4] == ["a-1", "b-1", "b-2", "a-2"]


def test_only_the_parts_that_are_asked_for_are_proved(root: Path) -> None:
    parts = [part(way("a")), part(way("b"), name="other")]
    assert prove(root, "other", parts=parts) == 0
    assert {each[0] for each in said(root)} == {"b"}
    with pytest.raises(SystemExit):
        prove(root, "nobody", parts=parts)


def test_no_chunk_begins_after_the_end(root: Path) -> None:
    assert prove(root, "--minutes", "0") == 0
    assert row(root)[3] == "0"
    assert "less than that of `make test`" in (root / "PROOF.md").read_text()


def test_an_interrupt_ends_the_command_and_keeps_what_was_done(root: Path) -> None:
    change(
        root,
        "import os, time\n"
        "print('prove: 10 things', flush=True)\n"
        "if sys.argv[1] == 'way-2':\n"
        "    open('pid', 'w').write(f'{os.getpid()}\\n')\n"
        "    time.sleep(60)\n",
    )
    program = (
        "import sys; from pathlib import Path; from tests.tools.test_prove import part;"
        "from tools.prove.__main__ import main, take_signals;"
        "take_signals(); sys.exit(main([], [part()], Path(sys.argv[1])))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(root)], stdout=subprocess.PIPE)
    while not (root / "pid").exists() or not (root / "pid").read_text().endswith("\n"):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + 15
    with pytest.raises(ProcessLookupError):
        os.kill(int((root / "pid").read_text()), 0)
    assert [chunk["seed"] for chunk in chunks(root)] == [1]
    assert row(root)[3] == "10"


def test_seeds_are_told_in_runs() -> None:
    assert ranges([3, 1, 2, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ranges([]) == "-"


def test_a_test_consists_of_what_it_imports_and_names(tmp_path: Path) -> None:
    files = {
        "tests/__init__.py": "",
        "tests/conftest.py": "from tests import proof",
        "tests/proof.py": "",
        "tests/a/conftest.py": "import tests.a.fixture",
        "tests/a/fixture.py": "",
        "tests/a/test_a.py": "from tests.a.first import x\nrun(f'-m tests.a.child {x}')",
        "tests/a/first.py": "from tests.b import second",
        "tests/a/child.py": "",
        "tests/a/test_other.py": "",
        "tests/b/second.py": "import tests.a.first",
        "tests/b/third.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    test = "tests/a/test_a.py"
    conftests = conftests_of(test, root=tmp_path)
    assert conftests == ("tests/a/conftest.py", "tests/conftest.py")
    used = files_of(test, *conftests, root=tmp_path)
    assert set(files) - set(used) == {"tests/a/test_other.py", "tests/b/third.py"}


def test_the_code_of_the_journal_uses_no_cache_and_that_of_the_reader_nothing_else() -> None:
    rust = ROOT / "rust"
    journal = [*(rust / "trace").rglob("*.rs"), *rust.glob("*.rs")]
    assert len(journal) > 15
    assert [path for path in journal if "cache::" in path.read_text()] == []
    reader = [*(rust / "observe").rglob("*.rs"), rust / "python" / "observe.rs"]
    used = {name for path in reader for name in re.findall(r"crate::(\w+)", path.read_text())}
    assert used == {"observe"}


def test_the_table_names_each_part_and_way_once_and_its_sources_are_there() -> None:
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    root = Path(__file__).parents[2]
    for part in PARTS:
        assert len({way.name for way in part.ways}) == len(part.ways)
        for way in part.ways:
            sources = (*part.sources, *way.sources)
            assert sources, f"{part.name} of nothing would never change"
            paths = [source.removeprefix(":(exclude)") for source in sources]
            assert all((root / path).exists() for path in paths), part.name
        tests = [each.partition("::")[0] for way in part.ways for each in way.command]
        assert all((root / each).exists() for each in tests if each.startswith("tests/")), part.name
