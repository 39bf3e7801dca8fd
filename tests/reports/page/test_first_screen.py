"""The first screen in a real browser: claims and gains fit on it, and work by pointer and by keyboard."""

import dataclasses
import os
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from reports.claims.answers import answers, decisions
from reports.claims.claim import OUTCOMES
from reports.claims.reader import read_claims
from reports.page import summary
from reports.page.claims import ClaimRow, claim_rows, claims_table
from reports.page.html import page
from reports.page.picture import Mark, Picture, pictures
from reports.page.report import order
from tests.reports.page.test_page import HOSTILE, opened, sample
from tests.support.browser import Reader, console, find, media, resize
from tests.support.studies import make_study


def shown_report():
    """A page with the first screen of a study of three data sets."""
    study = make_study(2, samples=False, sweeps=False, ablation=False)
    found = answers(study, read_claims())
    gains = summary.compare_methods(study)
    base = sample()
    return dataclasses.replace(
        base,
        claims=claim_rows(found, study),
        decisions=decisions(found),
        pictures=pictures(study, gains, order()),
        tables=[*base.tables, claims_table(found, study)],
    )


@pytest.fixture(scope="module")
def report():
    return shown_report()


@pytest.fixture
def browser(started, report, tmp_path):
    resize(started, 1400)
    media(started)
    yield opened(started, tmp_path, report)
    started.execute_script("localStorage.clear()")


def bottom(browser, selector):
    return find(browser, selector).rect["y"] + find(browser, selector).rect["height"]


def test_the_first_screen_is_one_screen_high(browser):
    assert bottom(browser, "#claims") <= 900
    assert find(browser, "#summary").rect["y"] >= find(browser, "#claims").rect["y"]
    gains = find(browser, "svg.gains").rect
    claims = find(browser, ".claims").rect
    assert gains["x"] > claims["x"] + claims["width"], "side by side"


def test_every_verdict_is_a_word_and_an_icon_of_its_own():
    rows = [ClaimRow(f"c{k}", "MS-Mix", "me", "It helps.", verdict) for k, verdict in enumerate(OUTCOMES)]
    text = page(sample(claims=rows))
    said = Reader(text).texts("span", **{"class": "verdict"})
    assert said == list(OUTCOMES)
    icons = [part.partition("</svg>")[0] for part in text.split('<svg class="icon"')[1:]]
    assert len(set(icons)) == len(OUTCOMES)
    assert all('aria-hidden="true"' in icon for icon in icons)


def test_a_claim_opens_by_the_keyboard_and_links_to_what_it_rests_on(browser):
    claim = browser.find_element(By.ID, "claim-ms_mix.selection")
    opener = claim.find_element(By.TAG_NAME, "summary")
    opener.send_keys(Keys.ENTER)
    place = claim.find_element(By.LINK_TEXT, "comparisons")
    assert place.is_displayed()
    place.send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#table-claims")


def test_a_link_unfolds_the_section_and_the_claim_that_it_points_to(browser):
    heading = browser.find_element(By.CSS_SELECTOR, "#tables summary")
    heading.click()
    assert not find(browser, "#table-main").is_displayed()
    browser.execute_script("location.hash = '#table-main'")
    assert find(browser, "#table-main").is_displayed()
    find(browser, ".deciding a").send_keys(Keys.ENTER)
    target = browser.current_url.partition("#")[2]
    assert browser.find_element(By.ID, target).find_element(By.TAG_NAME, "p").is_displayed()


def test_a_row_tells_its_numbers_to_the_pointer_and_to_the_keyboard(browser):
    marks = [mark for mark in browser.find_elements(By.CSS_SELECTOR, ".mark") if mark.is_displayed()]
    usual = find(browser, "#readout").text
    ActionChains(browser).move_to_element(marks[1]).perform()
    assert find(browser, "#readout").text == marks[1].get_attribute("aria-label") != usual
    browser.execute_script("arguments[0].focus()", marks[2])
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert find(browser, "#readout").text == marks[3].get_attribute("aria-label")


def metrics_shown(browser):
    shown = [svg for svg in browser.find_elements(By.CSS_SELECTOR, "svg.gains") if svg.is_displayed()]
    return [svg.get_attribute("data-metric") for svg in shown]


def test_another_metric_is_chosen_by_the_keyboard(browser):
    assert metrics_shown(browser) == ["mae"]
    find(browser, "#metric").send_keys(Keys.DOWN)
    assert metrics_shown(browser) == ["corr"]


def test_narrow_dark_and_printed_pages_show_it_all(browser):
    for width in (360, 800, 1400):
        resize(browser, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert find(browser, "svg.gains").is_displayed()
    media(browser, "print")
    assert find(browser, ".claims").is_displayed()
    assert not find(browser, ".switch").is_displayed()
    assert console(browser) == []


def test_hostile_claims_and_names_stay_texts(started, tmp_path):
    claim = ClaimRow("x", *[HOSTILE] * 3, "undecided", *[HOSTILE] * 3, "f", "t", "javascript:hacked=1")
    mark = Mark(HOSTILE, HOSTILE, 30.0, 200.0, None, None, [], HOSTILE, "javascript:hacked=1")
    picture = Picture(
        HOSTILE, HOSTILE, 100, [mark], [(200.0, HOSTILE), (300.0, "1")], [(20.0, HOSTILE)], 200.0
    )
    bad = sample(claims=[claim], decisions=[(HOSTILE, HOSTILE, ["x"])], pictures=[picture, picture])
    text = page(bad)
    assert not any("javascript:" in a.get("href", "") for _, a, _ in Reader(text).all("a"))
    opened(started, tmp_path, bad)
    for width in (360, 1400):
        resize(started, width)
        assert started.execute_script("return document.documentElement.scrollWidth") <= width
    assert started.execute_script("return typeof hacked") == "undefined"
    assert console(started) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, scheme):
    """axe-core, from npm, judges the whole page; AXE_CORE names its file axe.min.js."""
    if "AXE_CORE" not in os.environ:
        pytest.skip("AXE_CORE does not name axe-core's axe.min.js (npm install axe-core)")
    media(browser, scheme=scheme)
    browser.execute_script(Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8"))
    judged = "axe.run().then((result) => arguments[0](result.violations.map((v) => [v.impact, v.id])))"
    found = browser.execute_async_script(judged)
    assert [violation for violation in found if violation[0] in ("serious", "critical")] == []
