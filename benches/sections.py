"""How the tables get into ``benches/RESULTS.md``."""

from pathlib import Path


def write_section(path: Path, text: str) -> None:
    """Replaces the section of ``path`` that has the title of ``text``; leaves the others alone."""
    title = text.split("\n", 1)[0]
    before = path.read_text() if path.exists() else "# Results\n"
    sections = before.split("\n## ")
    kept = [each for each in sections if f"\n## {each}".split("\n")[1] != title]
    path.write_text("\n## ".join([kept[0], text.removeprefix("## "), *kept[1:]]))
