"""Claims: nothing in the package runs what it reads: no pickle, no code from data, no shell, no
loader that would do any of it. Read off the syntax trees of all of its files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import forwardcache

PACKAGE = Path(forwardcache.__file__).parent
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Attributes by which a module or an object runs what it is given.
CALLS = {"system", "popen", "eval_js", "read_pickle", "to_pickle", "unsafe_load", "full_load"}
LOADERS = {("torch", "load"), ("np", "load"), ("numpy", "load"), ("yaml", "load")}


def imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return {(node.module or "").partition(".")[0]}
    return set()


def flaws(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        yield from (f"imports {module}" for module in imported(node) & MODULES)
        if isinstance(node, ast.Call):
            yield from flaws_of_call(node)


def flaws_of_call(call: ast.Call) -> Iterator[str]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    for name in ("shell", "allow_pickle", "trust_remote_code"):
        value = keywords.get(name)
        if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
            yield f"{name} may be true"
    if isinstance(call.func, ast.Name) and call.func.id in BUILTINS:
        yield f"calls {call.func.id}"
    if isinstance(call.func, ast.Attribute):
        if call.func.attr in CALLS:
            yield f"calls .{call.func.attr}"
        owner = call.func.value
        if isinstance(owner, ast.Name) and (owner.id, call.func.attr) in LOADERS:
            yield f"calls {owner.id}.{call.func.attr}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.name))
def test_no_file_of_the_package_runs_what_it_reads(path: Path) -> None:
    assert list(flaws(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "import cloudpickle.cloudpickle",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=flag)",
        "os.system(command)",
        "polars.DataFrame.read_pickle(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=given)",
    ],
)
def test_what_would_run_what_it_reads_is_found(source: str) -> None:
    assert len(list(flaws(source))) >= 1


def test_what_is_allowed_is_not_found() -> None:
    allowed = "re.compile(x); model.eval(); f(shell=False); load(path, trust_remote_code=False)"
    assert list(flaws(allowed)) == []
