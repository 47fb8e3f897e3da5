"""Makes docs/report.png, the README's picture: ``python -m tools.report_picture``.

The demo is run, its trace and rows are reported, and Chromium (Debian's package) takes a picture
of the page's beginning.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).parent.parent / "docs" / "report.png"
MOST_BYTES = 200_000
_SIZE = "1040,1000"


def main() -> None:
    """Make the picture; ends with a message if it can't be made."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("needs chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "forwardcache"]
        subprocess.run([*command, "demo", "--out", name], check=True)
        page, picture = folder / "report.html", folder / "report.png"
        rows, trace = str(folder / "rows.jsonl"), str(folder / "trace.jsonl")
        report = ["report", trace, "--scores", rows, "--out", str(page)]
        subprocess.run([*command, *report], check=True)
        quiet = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-dev-shm-usage"]
        shot = [f"--screenshot={picture}", f"--window-size={_SIZE}", page.as_uri()]
        subprocess.run([chromium, *quiet, *shot], check=True, capture_output=True)
        if (size := picture.stat().st_size) >= MOST_BYTES:
            sys.exit(f"the picture has {size:,} bytes; less than {MOST_BYTES:,} are allowed")
        shutil.copyfile(picture, PICTURE)


if __name__ == "__main__":
    main()
