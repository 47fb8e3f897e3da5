"""Installs a wheel where nothing else is and uses it: ``python -m tools.try_wheel WHEEL ...``.

Each interpreter gets a new environment, an empty folder, and a search path without cargo or rustc.
The wheel is installed with no index, so it can't need another package; then it is imported, asked
for its version, and made to cache and to trace (``tools/smoke.py``). Before that it is looked
through and weighed. With ``--hf`` one interpreter gets the extra with its models and runs
``forwardcache demo``; with ``--sdist`` one builds the wheel, with Rust, from the source archive
alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.crates import NAME, ROOT, version

MOST_BYTES = 4_000_000
"""Of the package without the demo's model, in the wheel and installed."""
MOST_BYTES_WITH_DEMO = 7_000_000
PYTHONS = ("3.11", "3.12", "3.13")
_DEMO = f"{NAME}/demo/"
_SMOKE = Path(__file__).parent / "smoke.py"


@dataclass(frozen=True)
class Environment:
    """An environment of one interpreter, and what its programs see.

    Attributes:
        python: Its interpreter.
        folder: An empty folder to work in.
        variables: The process's environment.
    """

    python: Path
    folder: Path
    variables: dict[str, str]

    def run(self, *command: str | Path) -> str:
        """What a program prints.

        Raises:
            CalledProcessError: it failed.
        """
        done = subprocess.run(
            [str(each) for each in command],
            cwd=self.folder,
            env=self.variables,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout

    def install(self, *what: str) -> None:
        """Install with uv, or with pip where there is no uv."""
        uv = shutil.which("uv")
        installer = [uv, "pip", "install", "--quiet", "--python", str(self.python)]
        pip = [str(self.python), "-m", "pip", "install", "--quiet"]
        self.run(*(installer if uv else pip), *what)


@dataclass(frozen=True)
class Weight:
    """Bytes of a package.

    Attributes:
        rest: Everything but the demo's model, adapter and prompts.
        demo: Those.
    """

    rest: int
    demo: int

    def check(self, what: str) -> None:
        """Tell the weight, and end the run if it is too much."""
        whole = self.rest + self.demo
        print(f"  {what}: {self.rest:,} bytes, with the demo's model {whole:,}")
        if self.rest >= MOST_BYTES or whole >= MOST_BYTES_WITH_DEMO:
            allowed = f"{MOST_BYTES:,} and {MOST_BYTES_WITH_DEMO:,}"
            sys.exit(f"{what} has {self.rest:,} and {whole:,} bytes; less than {allowed} are asked")


def weight_in_wheel(wheel: Path) -> Weight:
    """Bytes to download, of which each file has its compressed share."""
    with zipfile.ZipFile(wheel) as archive:
        demo = sum(each.compress_size for each in archive.infolist() if _DEMO in each.filename)
    return Weight(wheel.stat().st_size - demo, demo)


def weight_on_disk(wheel: Path) -> Weight:
    """Bytes once unpacked; an interpreter adds its compiled files at the first import."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {each.filename: each.file_size for each in archive.infolist()}
    demo = sum(size for name, size in sizes.items() if _DEMO in name)
    return Weight(sum(sizes.values()) - demo, demo)


def flaws_of(wheel: Path) -> Iterator[str]:
    """What a wheel of ours has to hold and doesn't, or holds and shouldn't."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        core = next((archive.read(name) for name in names if name.endswith(".abi3.so")), b"")
    if "linux" in wheel.name and b"libgcc_s.so.1\0" not in core:
        yield "its core has an unwinder of its own, with which threads that CPython ends crash"
    for wanted in (".dist-info/sboms/forwardcache.cdx.json", ".dist-info/licenses/THIRD-PARTY.txt"):
        if not any(name.endswith(wanted) for name in names):
            yield f"there is no *{wanted}"
    for name in names:
        if not name.startswith((f"{NAME}/", f"{NAME}-")) or "__pycache__" in name:
            yield f"{name} is not of the package"
    if "-abi3-" not in wheel.name or "-linux_" in wheel.name:
        yield f"{wheel.name} is for one Python or for this machine alone"


@contextmanager
def environment(python: str, *, with_rust: bool = False) -> Iterator[Environment]:
    """A new environment of an interpreter (``3.12``, or a path), gone at the end."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (work := place / "work").mkdir()
        _make_environment(python, place / "env")
        path = os.environ["PATH"] if with_rust else f"{place / 'env' / 'bin'}:/usr/bin:/bin"
        for program in () if with_rust else ("cargo", "rustc"):
            if found := shutil.which(program, path=path):
                sys.exit(f"{program} is on the path of the environment: {found}")
        kept = ("HOME", "UV_CACHE_DIR", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "SSL_CERT_FILE")
        variables = {key: os.environ[key] for key in kept if key in os.environ}
        variables |= {"PATH": path, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
        if with_rust:
            variables |= {key: value for key, value in os.environ.items() if "CARGO" in key}
        yield Environment(place / "env" / "bin" / "python", work, variables)


def _make_environment(python: str, folder: Path) -> None:
    found = next(filter(_runs, _interpreters(python)), None)
    if uv := shutil.which("uv"):
        # It knows of more places, and can fetch one.
        command = [uv, "venv", "--quiet", "--python", found or python, str(folder)]
    elif found:
        command = [found, "-m", "venv", str(folder)]
    else:
        sys.exit(f"Python {python} was not found: put it on the path, or give its path")
    subprocess.run(command, check=True)


def _interpreters(python: str) -> Iterator[str]:
    """Where an interpreter may be: a path, on the search path, or one of pyenv's."""
    if os.sep in python:
        yield python
        return
    yield f"python{python}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    yield from (str(each / "bin" / "python") for each in sorted(pyenv.glob(f"{python}.*")))


def _runs(python: str) -> bool:
    # A shim of pyenv is there for every version, and fails for those that aren't chosen.
    try:
        return subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def try_alone(wheel: Path, python: str) -> None:
    """The wheel with nothing beside it."""
    with environment(python) as env:
        env.install("--no-index", str(wheel))
        said = env.run(env.python.parent / NAME, "--version").strip()
        if said != f"{NAME} {version()}":
            sys.exit(f"--version says '{said}', Cargo.toml {version()}")
        env.run(env.python, "-I", _SMOKE)
        print(f"Python {python}: installed without Rust or an index, cached and traced")


def try_demo(wheel: Path, python: str) -> None:
    """The wheel with its models: the main job, as a new user has it."""
    with environment(python) as env:
        env.install(f"{wheel}[hf]")
        shown = env.run(env.python.parent / NAME, "demo")
        if "it changed the model" not in shown:
            sys.exit(f"the demo ended otherwise: {shown}")
        print(f"Python {python}: forwardcache[hf] installed, the demo says what it should")


def try_sdist(sdist: Path, python: str) -> None:
    """The source archive alone, built on this machine."""
    with environment(python, with_rust=True) as env:
        env.install("--no-deps", str(sdist))
        env.run(env.python, "-I", _SMOKE)
        print(f"Python {python}: built and installed from {sdist.name}, cached and traced")


def main() -> None:
    """Try what is asked for; the first failure ends the run."""
    parser = argparse.ArgumentParser(prog="python -m tools.try_wheel")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", action="append", help="3.12 or a path; may be given again")
    parser.add_argument("--hf", metavar="PYTHON", help="install the extra there, run the demo")
    parser.add_argument("--sdist", type=Path, help="build this with the first interpreter")
    given = parser.parse_args()
    wheel = given.wheel.resolve()
    print(wheel.relative_to(ROOT) if wheel.is_relative_to(ROOT) else wheel)
    if found := list(flaws_of(wheel)):
        sys.exit("\n".join(found))
    weight_in_wheel(wheel).check("to download")
    weight_on_disk(wheel).check("installed")
    pythons = given.python or PYTHONS
    for python in pythons:
        try_alone(wheel, python)
    if given.sdist:
        try_sdist(given.sdist.resolve(), pythons[0])
    if given.hf:
        try_demo(wheel, given.hf)


if __name__ == "__main__":
    main()
