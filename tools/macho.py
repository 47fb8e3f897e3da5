"""What can be said of a macOS wheel without a Mac: ``python -m tools.macho WHEEL ...``."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import lief

NEWEST_NEEDED = [11, 0, 0]
"""The macOS that the wheel's name promises."""
OF_THE_SYSTEM = {f"/usr/lib/{name}.dylib" for name in ("libSystem.B", "libiconv.2", "libcharset.1")}
"""What every macOS has; Rust's standard library names the last two."""


def flaws_of(core: lief.MachO.Binary) -> Iterator[str]:
    """Why a Mac would not load the core, or not every Mac that the wheel is for."""
    needed = list(core.build_version.minos)
    if needed > NEWEST_NEEDED:
        yield f"it needs macOS {needed}, not {NEWEST_NEEDED}"
    own = lief.MachO.LoadCommand.TYPE.ID_DYLIB
    libraries = {library.name for library in core.libraries if library.command != own}
    if foreign := libraries - OF_THE_SYSTEM:
        yield f"it is linked with {sorted(foreign)}"
    # Names without a library are looked for in the process: they have to be the interpreter's.
    loose = {each.symbol.name for each in core.bindings if each.has_symbol and not each.has_library}
    if foreign := {name for name in loose if not name.startswith(("_Py", "__Py"))}:
        yield f"nothing that it is linked with has {sorted(foreign)}"
    if "_PyInit__core" not in {symbol.name for symbol in core.exported_symbols}:
        yield "it is no module"


def core_of(wheel: Path) -> lief.MachO.Binary:
    """The compiled core in a wheel, for its one kind of processor."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".abi3.so"))
        parsed = lief.MachO.parse(list(archive.read(name)))
    if parsed is None or len(parsed) != 1:
        sys.exit(f"{wheel.name}: {name} is no Mach-O file for one kind of processor")
    return parsed.at(0)


def main() -> None:
    """Look at each wheel; the first flaw ends the run."""
    parser = argparse.ArgumentParser(prog="python -m tools.macho")
    parser.add_argument("wheels", type=Path, nargs="+")
    # It reports every old-fashioned field that a new linker leaves out.
    lief.logging.disable()
    for wheel in parser.parse_args().wheels:
        core = core_of(wheel)
        if found := list(flaws_of(core)):
            sys.exit("\n".join(f"{wheel.name}: {flaw}" for flaw in found))
        count = len({each.symbol.name for each in core.bindings if each.has_symbol})
        print(f"{wheel.name}: macOS 11.0, {count} symbols, the interpreter's and the system's")


if __name__ == "__main__":
    main()
