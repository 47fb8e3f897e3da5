"""The pages are built without a warning, fetch nothing, and the reference has the docstrings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import forwardcache
from tests.docs.page import ROOT
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built in a process for which no host has an address."""
    folder = tmp_path_factory.mktemp("site")
    # An unreachable proxy takes the place of a machine without network.
    environment = {"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin"}
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    return folder


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*>", page.read_text("utf-8"))
        foreign = [tag for tag in loaded if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)]
        assert not [tag for tag in foreign if 'rel="canonical"' not in tag]


def test_the_reference_has_every_public_name_with_its_docstring(site: Path) -> None:
    page = (site / "reference" / "instrumentation" / "index.html").read_text("utf-8")
    for name in set(forwardcache.instrumentation.__all__):
        assert name.startswith("_") or f'id="forwardcache.instrumentation.{name}"' in page
    assert 'id="forwardcache.instrumentation.BackendInstrumentation.metrics"' in page
    assert "The figures of" in page
    assert "cache_max_bytes" in page
    page = (site / "reference" / "hf" / "index.html").read_text("utf-8")
    for name in ("HFBackend.score", "HFView.view_id", "Operations.next_token_dist_batch"):
        assert f'id="forwardcache.hf.{name}"' in page


def test_every_page_is_in_the_navigation_or_reached_from_it(site: Path) -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in navigation
