"""The page of ``diff`` in a real browser: Chromium, light and dark, as wide as a phone and a desk.

Checked: no word on the console, no request beyond the file itself, nothing that hangs over the
page's edge; every number in a table is that of the page's JSON, at the place that the table names;
a table is sorted from the keyboard, by exact values; what is folded opens from the keyboard and is
printed; all regions that scroll take the focus; pictures have names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from forwardcache.observe.report.diff_page import diff_page
from forwardcache.statistics import DiffResult
from tests.cli.test_report_browser import FORMS, opened_as, requested, said_on
from tests.observe.test_diff_page import whole
from tests.statistics.made_result import result_of

VALUES = """
const at = (value, keys) => keys.reduce((found, key) => found?.[key] ?? null, value);
const result = JSON.parse(document.getElementById("result").textContent);
for (const each of document.querySelectorAll("details")) each.open = true;
const found = [];
for (const table of document.querySelectorAll("table[data-at]"))
  for (const row of table.tBodies[0].rows)
    [...row.cells].slice(1).forEach((cell, column) => {
      const keys = table.tHead.rows[0].cells[column + 1].dataset.key.split(".");
      const own = JSON.parse(row.dataset.key), place = JSON.parse(table.dataset.at);
      const path = "flipped" in table.dataset ? [...keys, own] : [own, ...keys];
      found.push([[...place, ...path], at(result, [...place, ...path]), cell.innerText]);
    });
return found;
"""


@pytest.fixture(scope="module")
def result() -> DiffResult:
    kl = {"ft": 3e-3, "scaled_0.50": 1e-3, "scaled_0.10": 2e-3}
    return whole(result_of(kl, floor=1e-6, nulls=20, groups=3))


@pytest.fixture(scope="module")
def page(result: DiffResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("diff") / "diff.html"
    path.write_text(diff_page(result), "utf-8")
    return path


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_page_is_whole_by_itself_and_fits(
    browser: Chrome, page: Path, tmp_path: Path, form: tuple[str, int]
) -> None:
    theme, width = form
    opened_as(browser, page, theme, width)
    assert requested(browser) == {page.as_uri()}
    assert said_on(browser, "browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[theme]
    assert browser.save_screenshot(str(tmp_path / f"diff-{theme}-{width}.png"))


def test_every_number_is_that_of_the_json(browser: Chrome, page: Path, result: DiffResult) -> None:
    opened_as(browser, page, "light", 1280)
    found = browser.execute_script(VALUES)
    said = result.as_json()
    assert len(found) > 400
    for path, exact, text in found:
        there: Any = said
        for key in path:
            there = there[key]
        assert there == exact, path
        assert_says(exact, text, path)


def assert_says(exact: Any, text: str, path: list[Any]) -> None:
    if exact is None:
        assert text == "-", path
    elif isinstance(exact, bool):
        assert text == ("yes" if exact else "no"), path
    elif isinstance(exact, list):
        for end, word in zip(exact, text.split(" to "), strict=True):
            assert_says(end, word, path)
    elif text.endswith("%"):
        assert float(text.rstrip("%")) == pytest.approx(100 * exact, abs=0.0051), path
    else:
        number = float(text.replace(",", ""))
        assert number == (exact if isinstance(exact, int) else pytest.approx(exact, rel=6e-4)), path


def rows_of(table: Any) -> list[str]:
    return [row.text for row in table.find_elements(By.CSS_SELECTOR, "tbody th")]


def test_a_table_is_sorted_from_the_keyboard(browser: Chrome, page: Path) -> None:
    opened_as(browser, page, "light", 1280)
    table = browser.find_element(By.CSS_SELECTOR, "table[data-at='[\"views\"]']")
    given = ["ft", "scaled_0.50", "scaled_0.10"]
    assert rows_of(table) == given
    buttons = table.find_elements(By.CSS_SELECTOR, "th button")
    mean = next(one for one in buttons if one.text.startswith("KL, mean"))
    mean.send_keys(Keys.ENTER)
    assert rows_of(table) == ["ft", "scaled_0.10", "scaled_0.50"]
    heading = mean.find_element(By.XPATH, "..")
    assert heading.get_attribute("aria-sort") == "descending"
    mean.send_keys(Keys.SPACE)
    assert rows_of(table) == ["scaled_0.50", "scaled_0.10", "ft"]
    assert heading.get_attribute("aria-sort") == "ascending"
    buttons[0].send_keys(Keys.ENTER)
    assert rows_of(table) == ["scaled_0.50", "scaled_0.10", "ft"]
    assert heading.get_attribute("aria-sort") is None


def test_what_is_folded_opens_from_the_keyboard_and_is_printed(browser: Chrome, page: Path) -> None:
    opened_as(browser, page, "light", 1280)
    folded = browser.find_elements(By.CSS_SELECTOR, "details:not([open]) > summary")
    assert len(folded) > 10
    folded[0].send_keys(Keys.ENTER)
    assert folded[0].find_element(By.XPATH, "..").get_attribute("open")
    # Chromium tells the page that it is printed; what is folded then opens, and closes again.
    script = """
    const states = [];
    const say = () => states.push(document.querySelectorAll("details:not([open])").length);
    addEventListener("beforeprint", say); addEventListener("afterprint", say);
    window.printed = states;
    """
    browser.execute_script(script)
    before = browser.execute_script(
        "return document.querySelectorAll('details:not([open])').length"
    )
    browser.execute_cdp_cmd("Page.printToPDF", {})
    assert browser.execute_script("return window.printed") == [0, before]


def test_a_page_without_scripts_is_printed_unfolded_too(browser: Chrome, page: Path) -> None:
    opened_as(browser, page, "light", 1280)
    media = {"media": "print"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    script = """
    const table = document.querySelector("details:not([open]) table");
    const height = table.getClientRects()[0]?.height;
    return [table.checkVisibility({contentVisibilityAuto: true}), height];
    """
    try:
        visible, height = browser.execute_script(script)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert visible
    assert height > 0


def test_what_scrolls_takes_the_focus_and_pictures_have_names(browser: Chrome, page: Path) -> None:
    opened_as(browser, page, "light", 390)
    script = """
    const isWide = each => each.scrollWidth > each.clientWidth + 1;
    const scrolls = [...document.querySelectorAll("*")].filter(
      each => isWide(each) && getComputedStyle(each).overflowX === "auto");
    const pictures = [...document.querySelectorAll("svg[role=img]")];
    const links = [...document.querySelectorAll("nav a")];
    return [scrolls.length, scrolls.every(each => each.tabIndex === 0 && each.ariaLabel),
      pictures.length, pictures.every(each => document.getElementById(
        each.getAttribute("aria-labelledby")).textContent),
      links.length, links.every(each => document.querySelector(each.getAttribute("href")))];
    """
    scrolls, all_focus, pictures, all_named, links, all_lead = browser.execute_script(script)
    assert scrolls
    assert all_focus
    assert pictures == 6
    assert all_named
    assert links == 8
    assert all_lead
