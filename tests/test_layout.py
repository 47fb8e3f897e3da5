"""Claims: each concern keeps to its package (DESIGN.md): Python's interface in ``rust/python``,
atomic types in ``rust/sync.rs``, torch in ``forwardcache/hf`` and in the harness's own model class.
Packages import only those that ``MAY_IMPORT`` allows them, and no modules import each other in a
circle. A package of several files says in which order they are read.
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.imports import circles, graph

ROOT = Path(__file__).parent.parent
RUST = ROOT / "rust"
PYTHON = ROOT / "python" / "forwardcache"
TORCH = re.compile(r"^(?:import|from) (?:torch|transformers|peft)\b", re.MULTILINE)
ATOMICS = re.compile(r"\bAtomic[A-Z]\w*|\bsync::atomic\b")
LOCKS = re.compile(r"\b(?:Mutex|RwLock)\b")
# On the way of get, put and evict; a model's table and tests may lock.
WITHOUT_LOCK = (
    "capacity",
    "entry",
    "epoch",
    "mod",
    "order/list",
    "order/mod",
    "order/snapshot",
    "put",
    "tick",
    "table/buckets",
    "table/by_use",
    "table/chain",
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


def test_pyo3_stays_in_rust_python() -> None:
    files = {
        name: text for name, text in sources(RUST, ".rs").items() if not name.startswith("python/")
    }
    assert those_with(re.compile(r"\bpyo3::"), files) == set()


def test_torch_stays_in_hf() -> None:
    outside = {
        name: text for name, text in sources(PYTHON, ".py").items() if not name.startswith("hf/")
    }
    assert those_with(TORCH, outside) == {"integrations/lm_eval/model.py"}


BASE = {
    *("errors", "extras", "scoring", "divergence", "operation"),
    *("instrumentation", "_arrays", "_core", "_event", "_figures", "_hidden_states", "_junit"),
    *("_null_scales", "_top_k", "adapter_names"),
}
TABLE = """
base         nobody: what users import
conformance  base
statistics   base
hf.spec      base
hf.batch     base
hf.text      base hf.spec hf.batch
operations   base hf.batch hf.text
store        base operations
observe      base operations statistics
hf.model     base hf.spec hf.text
hf.states    base hf.batch
hf.scoring   base operations store hf.spec hf.batch hf.text hf.model hf.states
hf.stream    base hf.spec hf.batch hf.text
hf           base operations statistics store hf.spec hf.batch hf.text hf.model hf.scoring hf.stream
hf.planting  base hf.batch hf.model
conformance.adapter base conformance hf.planting
hf.others    base hf hf.spec hf.batch hf.text hf.model hf.scoring
jobs         base operations store statistics hf hf.spec hf.text hf.others
distributed  base operations store statistics jobs
integrations base hf hf.text jobs
cli          base operations store statistics observe conformance conformance.adapter hf \
             hf.scoring jobs distributed
"""
MAY_IMPORT = {
    package: set() if others.startswith("nobody") else set(others.split())
    for package, others in (line.split(maxsplit=1) for line in TABLE.strip().splitlines())
}
"""Who may import whom, at run time; each line stands below those that it names."""


def package_of(module: str) -> str:
    first, _, rest = module.partition(".")
    if first in BASE or not module:
        return "base"
    if first == "__main__":
        return "cli"
    inner = f"{first}.{rest.partition('.')[0]}"
    return inner if inner in MAY_IMPORT else first


def forbidden(imports: dict[str, set[str]]) -> list[str]:
    return [
        f"{module} imports {other}"
        for module, others in sorted(imports.items())
        for other in sorted(others)
        if package_of(other) not in MAY_IMPORT[package_of(module)] | {package_of(module)}
    ]


@pytest.fixture(scope="module")
def read_once() -> Mapping[str, frozenset[str]]:
    """Who imports whom, which takes a second to read."""
    found = {module: frozenset(others) for module, others in graph().items()}
    return MappingProxyType(found)


@pytest.fixture
def imports(read_once: Mapping[str, frozenset[str]]) -> dict[str, set[str]]:
    """The same, for a test to change."""
    return {module: set(others) for module, others in read_once.items()}


def test_packages_import_only_those_that_they_may(imports: dict[str, set[str]]) -> None:
    assert len(imports) > 150
    assert forbidden(imports) == []


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("jobs.prompts", "cli.exits"),
        ("distributed.scoring", "cli.app"),
        ("hf.batch.forward", "hf.scoring.batched_forwards"),
        ("hf.model.load", "hf.scoring.scorer"),
        ("scoring", "hf.spec"),
        ("store.base", "observe.reader"),
    ],
)
def test_an_import_of_what_stands_higher_is_found(
    module: str, other: str, imports: dict[str, set[str]]
) -> None:
    imports[module] = imports[module] | {other}
    assert forbidden(imports) == [f"{module} imports {other}"]


def test_no_modules_import_each_other_in_a_circle(imports: dict[str, set[str]]) -> None:
    assert circles(imports) == []
    imports["store.base"].add("store.tiers")
    assert {"store.base", "store.tiers"} <= set(circles(imports))


def rust_python_graph() -> dict[str, set[str]]:
    """By module of ``rust/python``: those next to it that it names."""
    files = {path.stem: path.read_text() for path in (RUST / "python").glob("*.rs")}
    del files["mod"]
    used = {name: set(re.findall(r"\bsuper::(\w+)", text)) for name, text in files.items()}
    return {name: others & files.keys() for name, others in used.items()}


def test_no_modules_of_rust_python_use_each_other_in_a_circle() -> None:
    used = rust_python_graph()
    assert len(used) > 30
    assert circles(used) == []
    used["known"].add("trace")
    assert {"described", "known", "trace"} <= set(circles(used))


def test_a_line_of_the_table_stands_below_those_that_it_names() -> None:
    seen: set[str] = set()
    for package, others in MAY_IMPORT.items():
        assert others <= seen, package
        seen.add(package)


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


def test_a_package_of_many_files_has_a_reading_order() -> None:
    many = {file: header for file, (header, names) in reading_orders().items() if len(names) > 6}
    assert [file for file, header in many.items() if "Reading order" not in header] == []
