"""Claims: each concern keeps to its room (DESIGN.md): Python's interface in ``rust/python``, atomic
types in ``rust/sync.rs``, torch in ``forwardcache/hf`` and in the harness's own model class. A room
of several files says in which order they are read.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUST = ROOT / "rust"
PYTHON = ROOT / "python" / "forwardcache"
TORCH = re.compile(r"^(?:import|from) (?:torch|transformers|peft)\b", re.MULTILINE)
ATOMICS = re.compile(r"\bAtomic[A-Z]\w*|\bsync::atomic\b")
LOCKS = re.compile(r"\b(?:Mutex|RwLock)\b")
# On the way of get, put and evict; a model's table and tests may lock.
WITHOUT_LOCK = (
    "entry",
    "mod",
    "order",
    "put",
    "room",
    "stamp",
    "tick",
    "table/shared",
    "table/turns",
)


def sources(folder: Path, ending: str) -> dict[str, str]:
    """Text of each file below ``folder``, by its path from there."""
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob(f"*{ending}")}
    assert len(found) > 10
    return found


def those_with(pattern: re.Pattern[str], files: dict[str, str]) -> set[str]:
    return {name for name, text in files.items() if pattern.search(text)}


def test_only_sync_names_atomic_types() -> None:
    assert those_with(ATOMICS, sources(RUST, ".rs")) == {"sync.rs"}


def test_no_lock_is_on_the_way_of_get_put_and_evict() -> None:
    files = {name: (RUST / "cache" / f"{name}.rs").read_text() for name in WITHOUT_LOCK}
    assert those_with(LOCKS, files) == set()


def test_pyo3_stays_in_its_room() -> None:
    files = {
        name: text for name, text in sources(RUST, ".rs").items() if not name.startswith("python/")
    }
    assert those_with(re.compile(r"\bpyo3::"), files) == set()


def test_torch_stays_in_its_room() -> None:
    outside = {
        name: text for name, text in sources(PYTHON, ".py").items() if not name.startswith("hf/")
    }
    assert those_with(TORCH, outside) == {"integrations/lm_eval/model.py"}


def reading_orders() -> dict[str, tuple[str, set[str]]]:
    """By file: what a module says of itself, and the modules that it is made of."""
    found = {}
    for path in PYTHON.rglob("__init__.py"):
        names = {each.stem for each in path.parent.glob("*.py")}
        names |= {each.parent.name for each in path.parent.glob("*/__init__.py")}
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[str(path.relative_to(ROOT))] = docstring, {each for each in names if each[0] != "_"}
    for path in [RUST / "lib.rs", *RUST.rglob("mod.rs")]:
        lines = path.read_text().splitlines()
        names = {name for line in lines for name in re.findall(r"^(?:pub )?mod (\w+);", line)}
        header = "\n".join(line for line in lines if line.startswith("//!"))
        found[str(path.relative_to(ROOT))] = (
            header,
            names - {"tests", "models", "scenarios", "proof"},
        )
    return found


def test_a_reading_order_leaves_no_file_out() -> None:
    orders = {file: said for file, said in reading_orders().items() if "Reading order" in said[0]}
    assert len(orders) > 10
    missing = {
        file: {name for name in names if f"`{name}`" not in header}
        for file, (header, names) in orders.items()
    }
    assert {file: names for file, names in missing.items() if names} == {}


def test_a_room_of_many_files_has_a_reading_order() -> None:
    many = {file: header for file, (header, names) in reading_orders().items() if len(names) > 6}
    assert [file for file, header in many.items() if "Reading order" not in header] == []
