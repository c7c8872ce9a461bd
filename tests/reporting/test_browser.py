"""The pages as people see them, in Debian's Chromium: light and dark, wide and narrow, by mouse and by keyboard."""

import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import MOST_TABS, Findings, chromium, look, opened
from helpers.leaderboard import Repository, written
from helpers.learning_curve import NUMBERS, law, planted
from helpers.report_inputs import EVIL, TWO, make_inputs

from nightshift.reporting import learning_curve_page
from nightshift.reporting.learning_curve import learning_curves
from stages import compare

ROOT = Path(__file__).parents[2]
COMMITTED = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "docs").rglob("*.html"))}
FIVE = {"frozen": 0.0, "lora": 0.1, "unet": 0.05, "vesselness": -0.1, "a_long_name-of-an-arm": -0.02}
WIDTHS = (1280, 390)
BAD = """<!doctype html>
<title>All wrong</title>
<style>body { color: #999; background: #fff } a:focus { outline: none }</style>
<nav><a href="#a">never shown to have the focus</a> <a href="#b" tabindex="-1">never reached</a></nav>
<img src="data:image/png;base64,AAAA" alt="broken"><img src="https://nowhere.invalid/a.png">
<div style="width: 2000px">too wide</div>
<div style="overflow: auto; height: 9px">no tabindex</div>
<script>console.error("said"); alert("opened"); setTimeout(() => { throw Error("thrown") })</script>
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    executable = shutil.which("chromium")
    if not executable:
        pytest.skip("NO PAGE WAS LOOKED AT: there is no chromium on PATH; on Debian, apt-get install chromium")
    with chromium(executable, tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports and the leaderboard of made-up runs, each with a name that is an attack, and the committed pages."""
    root = tmp_path_factory.mktemp("pages")
    repository = Repository()
    repository.add("a" * 40, "main", delta=0.1)
    repository.add("b" * 40, EVIL, rank=16, delta=0.2, under="a" * 40)
    repository.add("c" * 40, "worse", rank=4, delta=-0.1, under="a" * 40, arms={"unet": -0.2, "vesselness": -0.3})
    repository.add("d" * 40, "late", rank=32, under="a" * 40, state="queued")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, gains in (("report", TWO), ("report of five arms", FIVE)):
            folder = root / name
            folder.mkdir()
            make_inputs(folder, gains)
            patch.chdir(folder)
            compare.main()
            found[name] = folder / "reports/comparison/report.html"
        written(repository, root / "leaderboard", patch)
    arms = {"frozen": law(0.72, 0.1, 0.9), "lora": law(0.85, 0.3, 0.5), EVIL: law(0.7, 0.1, 0.9)}
    curves = learning_curves(planted(arms, 8, np.random.default_rng(0)), "frozen")
    learning_curve_page.write(curves, dict.fromkeys(NUMBERS, EVIL), ["Random weights."], root)
    found["learning curve"] = root / "learning-curve.html"
    return found | {"leaderboard": root / "leaderboard/leaderboard.html"} | COMMITTED


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "report of five arms", "leaderboard", "learning curve", *COMMITTED])
def test_a_page_is_whole_readable_and_works_by_keyboard(browser, pages, name, width):
    light, dark = (look(browser, pages[name], width, scheme) for scheme in ("light", "dark"))
    assert (light.problems(), dark.problems()) == ({}, {})
    assert light.brightness > 0.5 > dark.brightness
    if name not in COMMITTED:
        assert EVIL in light.text


def test_every_check_can_fail(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(BAD, encoding="utf-8")
    light, dark = (look(browser, page, 390, scheme) for scheme in ("light", "dark"))
    assert set(light.problems()) == {one.name for one in fields(Findings)} - {"text", "brightness"}
    assert light.brightness == dark.brightness
    assert light.requests == ["https://nowhere.invalid/a.png"] and light.dialogs == ["opened"]
    assert "said" in light.errors and "thrown" in light.errors
    assert [one.split(":")[0] for one in light.images] == ["not loaded", "not loaded", "no alt text"]
    assert light.unreached == ["a: never reached", "div: no tabindex"]
    assert light.unmarked == ["a: never shown to have the focus"]


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_the_leaderboard_sorts_by_its_buttons(browser, pages, way):
    with opened(browser, pages["leaderboard"]) as (page, found):
        rows, button = page.locator("tbody").first.locator("th"), page.get_by_role("button", name="Difference")
        column = page.get_by_role("columnheader", name="Difference")
        assert rows.all_inner_texts() == [EVIL, "main", "worse"]

        def press(key: str) -> None:
            page.keyboard.press(key) if way == "keyboard" else button.click()

        for _ in range(MOST_TABS if way == "keyboard" else 0):
            if button.evaluate("one => one === document.activeElement"):
                break
            page.keyboard.press("Tab")
        for key, sort, names in (
            ("Enter", "ascending", ["worse", "main", EVIL]),
            ("Space", "descending", [EVIL, "main", "worse"]),
        ):
            press(key)
            assert column.get_attribute("aria-sort") == sort and rows.all_inner_texts() == names
        assert page.locator("[aria-sort$=ending]").count() == 1
        assert not found.problems()
