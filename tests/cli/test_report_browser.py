"""The report's pages in a real browser: Chromium, light and dark, as wide as a phone and a desk.

Checked: no word on the console, no request beyond the file itself, nothing that hangs over the
page's edge; every number that the page shows is that of the JSON, exactly in its attribute and to
the digits shown in its text; colours follow the reader's; regions that scroll take the focus.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from forwardcache.cli.app import run as run_command
from forwardcache.jobs.metadata import meta_of
from tests.cli.test_report import HOSTILE
from tests.cli.test_report_scores import ROWS, written
from tests.cli.test_trace import line, trace

FACTS = {
    "versions": {"forwardcache": "1"},
    "command": f"forwardcache score --prompts {HOSTILE}{'x' * 300}",
    "model": {"folder": "/a", "digest": "0" * 64},
}
FORMS = [(theme, width) for theme in ("light", "dark") for width in (390, 1280)]
HEIGHT = 900

CELLS = """
const cell = each => [JSON.parse(each.dataset.value), each.innerText];
const figures = {};
for (const each of document.querySelectorAll("details")) each.open = true;
for (const table of document.querySelectorAll("table[data-figure]"))
  figures[table.dataset.figure] =
    [...table.tBodies[0].rows].map(row => [...row.cells].map(cell));
for (const each of document.querySelectorAll(":not(table)[data-figure][data-value]"))
  figures[each.dataset.figure] = cell(each);
for (const each of document.querySelectorAll("[data-figure$=verdict]"))
  figures[each.dataset.figure] = each.innerText;
return figures;
"""


def random_trace(path: Path, seed: int) -> Path:
    """Some thousand events of several probes, views, threads and batches, some of them failed."""
    rng = random.Random(seed)
    lines = []
    for seq in range(3000):
        failed = rng.random() < 0.01
        hit = not failed and rng.random() < seq / 3000
        lines.append(
            line(
                1763701140.0 + seq * 0.02,
                probe=rng.choice(["sentiment", "style", None, HOSTILE]),
                view_id=rng.choice(["base", "ft", "scaled_0.50"]),
                prompt_hash=f"{rng.randrange(400):012x}",
                wall_ms=rng.random() * (0.05 if hit else 60),
                hit=hit,
                run="5d3f0c1e8b7a9624",
                thread=rng.randrange(4),
                seq=seq,
                key=f"{rng.randrange(400):016x}",
                batch=seq // 16,
                batch_size=rng.choice([3, 16]),
                waited=hit and rng.random() < 0.1,
                **({"error": "RuntimeError"} if failed else {}),
            )
        )
    return trace(path, *lines, b"no JSON\n")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Each page with the numbers that ``--format json`` says for the same input."""
    folder = tmp_path_factory.mktemp("pages")
    first, second = random_trace(folder / "a.jsonl", 1), random_trace(folder / "b.jsonl", 2)
    rows = written(folder / "rows.jsonl", ROWS)
    meta_of(rows).write_text(json.dumps(FACTS))
    commands: dict[str, list[str]] = {
        "report": ["report", str(first), "--scores", str(rows)],
        "compare": ["report", "compare", str(first), str(second)],
    }
    made = {}
    for name, command in commands.items():
        page, numbers = folder / f"{name}.html", folder / f"{name}.json"
        for out in (page, numbers):
            form = out.suffix[1:]
            assert run_command([*command, "--format", form, "--out", str(out)]) == 0
        made[name] = page, json.loads(numbers.read_text())
    return made


def said_on(browser: Chrome, log: str) -> list[dict[str, Any]]:
    """What was logged since the last look."""
    entries: list[dict[str, Any]] = browser.get_log(log)  # type: ignore[no-untyped-call]
    return entries


def opened_as(browser: Chrome, page: Path, theme: str, width: int) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    said_on(browser, "performance")
    said_on(browser, "browser")
    browser.get(page.as_uri())


def requested(browser: Chrome) -> set[str]:
    """The addresses that the page asked for, those that stand in the page itself left out."""
    said = [json.loads(entry["message"])["message"] for entry in said_on(browser, "performance")]
    sent = [one for one in said if one["method"] == "Network.requestWillBeSent"]
    urls = {one["params"]["request"]["url"] for one in sent}
    return {url for url in urls if not url.startswith("data:")}


@pytest.mark.parametrize("name", ["report", "compare"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_page_is_whole_by_itself_and_fits(
    browser: Chrome, pages: dict[str, Any], tmp_path: Path, name: str, form: tuple[str, int]
) -> None:
    page, _ = pages[name]
    theme, width = form
    opened_as(browser, page, theme, width)
    assert requested(browser) == {page.as_uri()}
    assert said_on(browser, "browser") == []
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[theme]
    assert browser.save_screenshot(str(tmp_path / f"{name}-{theme}-{width}.png"))


@pytest.mark.parametrize("name", ["report", "compare"])
def test_every_number_of_a_page_is_that_of_the_json(
    browser: Chrome, pages: dict[str, Any], name: str
) -> None:
    page, said = pages[name]
    opened_as(browser, page, "light", 1280)
    shown = browser.execute_script(CELLS)
    assert shown.keys() == set(expected(said)), "a figure is missing, or one too many is shown"
    for figure, value in expected(said).items():
        if figure.endswith("verdict"):
            assert shown[figure] == value
        elif isinstance(value, list):
            assert [[cell[0] for cell in row] for row in shown[figure]] == value
            for row in shown[figure]:
                for cell in row:
                    assert_says(figure, *cell)
        else:
            assert shown[figure][0] == value
            assert_says(figure, *shown[figure])


def expected(said: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a page has to show of the numbers ``said``, by the names that its parts have."""
    found: dict[str, Any] = {}
    for name, value in said.items():
        place = prefix + name
        if name in {"sorted_nats", "null_band", "op", "measure", "prompt_count", "without_key"}:
            continue  # drawn, or in the words
        if name == "skipped":
            found[place] = [[reason, count] for reason, count in value.items()]
        elif isinstance(value, dict):
            found |= expected(value, f"{place}.")
        elif isinstance(value, list):
            found[place] = [[v for v in row.values() if not isinstance(v, list)] for row in value]
        elif not name.endswith("_ts"):
            found[place] = value
    return {name: value for name, value in found.items() if value != []}


def assert_says(figure: str, exact: Any, text: str) -> None:
    """That ``text`` is ``exact`` to the digits that are shown."""
    if exact is None:
        assert text == "-", figure
    elif isinstance(exact, bool):
        assert text == ("hit" if exact else "miss"), figure
    elif isinstance(exact, str):
        words = exact.removesuffix("_s") + ", s" if exact.endswith("_s") else exact
        assert text.split() in (exact.split(), words.replace("_", " ").split()), figure
    elif text.endswith("%"):
        assert float(text.rstrip("%").replace(",", "")) == pytest.approx(100 * exact, abs=0.051)
    else:
        number = float(text.replace(",", ""))
        assert number == (exact if isinstance(exact, int) else pytest.approx(exact, rel=6e-4))


def test_contents_lead_to_every_part_and_tables_are_sorted_from_the_keyboard(
    browser: Chrome, pages: dict[str, Any]
) -> None:
    page, said = pages["report"]
    opened_as(browser, page, "light", 1280)
    script = """
    const links = [...document.querySelectorAll("nav a")].map(each => each.getAttribute("href"));
    return [links, [...document.querySelectorAll("h2")].map(each => "#" + each.id)];
    """
    links, parts = browser.execute_script(script)
    assert links == parts
    table = browser.find_element(By.CSS_SELECTOR, "table[data-figure=latency]")
    names = list(said["latency"][0])
    button = table.find_elements(By.CSS_SELECTOR, "th button")[names.index("p50_ms")]
    button.send_keys(Keys.ENTER)
    shown = browser.execute_script(CELLS)["latency"]
    values = [row[names.index("p50_ms")][0] for row in shown]
    assert values == sorted((row["p50_ms"] for row in said["latency"]), reverse=True)


def test_what_scrolls_takes_the_focus_and_pictures_have_names(
    browser: Chrome, pages: dict[str, Any]
) -> None:
    page, _ = pages["report"]
    opened_as(browser, page, "light", 390)
    script = """
    const isWide = each => each.scrollWidth > each.clientWidth + 1;
    const scrolls = [...document.querySelectorAll("*")].filter(
      each => isWide(each) && getComputedStyle(each).overflowX === "auto");
    const pictures = [...document.querySelectorAll("svg[role=img]")];
    return [scrolls.length, scrolls.every(each => each.tabIndex === 0 && each.ariaLabel),
      pictures.length, pictures.every(each => document.getElementById(
        each.getAttribute("aria-labelledby")).textContent)];
    """
    scrolls, all_focus, pictures, all_named = browser.execute_script(script)
    assert scrolls
    assert all_focus
    assert pictures == 5
    assert all_named
