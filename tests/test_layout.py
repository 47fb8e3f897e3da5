"""Claims: each concern keeps to its room (DESIGN.md): Python's interface in ``rust/python``, atomic
types in ``rust/sync.rs``, torch in ``forwardcache/hf`` and in the harness's own model class.
"""

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
