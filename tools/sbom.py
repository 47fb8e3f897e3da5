"""Writes the wheel's bill of materials: ``python -m tools.sbom FILE``.

CycloneDX, for the Rust crates that are linked in. The same sources give the same bytes, wherever
and whenever they are built: maturin's own bill names the folder, the moment and a random number.
"""

from __future__ import annotations

import sys
import uuid
from datetime import UTC, datetime
from os import environ
from pathlib import Path

from cyclonedx.contrib.hash.factories import HashTypeFactory
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from tools.crates import NAME, Crate, linked_crates, version


def bill(crates: list[Crate], *, moment: datetime) -> str:
    """The bill as JSON, checked against the format's schema.

    Args:
        crates: What :func:`tools.crates.linked_crates` gives.
        moment: When the sources were made.

    Raises:
        ValueError: what was written is not of the format.
    """
    components = {crate.name: _component(crate) for crate in crates}
    ours = components.pop(NAME)
    named = "\n".join(f"{crate.name} {crate.version} {crate.sha256}" for crate in crates)
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, named),
        metadata=BomMetaData(component=ours, timestamp=moment),
        components=components.values(),
    )
    for crate in crates:
        needs = [components[need] for need in crate.needs]
        bom.register_dependency(components.get(crate.name, ours), needs)
    text = JsonV1Dot6(bom).output_as_string(indent=1) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the bill is not of CycloneDX 1.6: {error}")
    return text


def _component(crate: Crate) -> Component:
    is_ours = crate.name == NAME
    return Component(
        type=ComponentType.LIBRARY,
        name=crate.name,
        version=crate.version,
        bom_ref=f"{crate.name}@{crate.version}",
        purl=PackageURL("pypi" if is_ours else "cargo", name=crate.name, version=crate.version),
        licenses=[LicenseFactory().make_from_string(crate.licence.replace("/", " OR "))],
        hashes=[] if is_ours else [HashTypeFactory().from_hashlib_alg("sha256", crate.sha256)],
    )


def main(arguments: list[str]) -> int:
    """Write the bill; 2 if the file isn't named."""
    if len(arguments) != 1:
        print("usage: python -m tools.sbom FILE", file=sys.stderr)
        return 2
    moment = datetime.fromtimestamp(int(environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    file = Path(arguments[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(bill(linked_crates(), moment=moment), "utf-8")
    print(f"{file}: the crates of {NAME} {version()}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
