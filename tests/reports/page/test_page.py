"""The page of a report: its text, and how it behaves in a real browser, opened from disk."""

import base64
import hashlib
import itertools
import math
import re
from importlib.resources import files

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from reports.page import html as module
from reports.page.html import Failure, PageFigure, Report, page
from reports.tables.table import BEST, SECOND, Column, Part, Table, Value
from tests.support.browser import Reader, console, find, media, requested, resize, until

ROWS = 300
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="504pt" height="216pt"><circle r="9"/></svg>'
HOSTILE = (
    '"><script>hacked = 1</script><img src=x onerror="hacked = 1">&amp;\u202eabc\x00\x07\ud800\u2066 \n\'`{}'
)
RUN = "http://127.0.0.1:5000/#/experiments/1/runs/a"
METHODS = ("none", "mixup", "powmix", "ms_mix")


def numbers(count=ROWS, dataset="mosi"):
    """Rows with ties, a hole every tenth row, in the order of a fixed shuffle."""
    columns = [Column("Dataset"), Column("Method"), Column("n", True), Column("MAE ↓", True)]
    rows = []
    for i in range(count):
        value, method = (i * 37 % count) // 2, METHODS[i % 4]
        mae = Value("–") if i % 10 == 7 else Value(f"{value} ± 0.5", (BEST, SECOND, 2)[i % 3], value, RUN)
        rows.append([Value(dataset), Value(method, order=method), Value("2", order=2), mae])
    return Part(columns, [rows[k : k + 4] for k in range(0, count, 4)])


def sample(**changed):
    occlusion = {"pdf": "figures/occlusion.pdf"}
    fields = dict(
        title="Report of study quick",
        study="quick",
        synthetic=" (synthetic stand-in data)",
        counts={"done": 1312, "failed": 1, "diverged": 0, "missing": 5},
        requested_note="1,318 cells were asked for.",
        summary=["ms_mix is best on mosi, within the noise.", "With one seed no uncertainty can be given."],
        tables=[
            Table("main", "Table 2: results", [numbers(), numbers(8, "sims")], ["↓ lower is better."]),
            Table("ablation", "Table 4: ablation", [], ["SASS off."], fill="make benchmark ARGS='a=1'"),
        ],
        figures=[
            PageFigure("occlusion", "Figure 5: occlusion", "Bands: 95%.", SVG, occlusion),
            PageFigure("alpha", "Figure 4c: alpha", "No sweep yet.", SVG.encode(), {}, True),
        ],
        failures=[Failure("mosi/tfn/mixup/seed1", "failed", "out of memory", RUN)],
        notes=[("Departures from the papers", ["PowMix: ours is simpler."])],
        facts={"PyTorch": "2.13.0"},
        runs_link="http://127.0.0.1:5000/#/experiments/1/runs?searchFilter=tags.kind%20%3D%20%27cell%27",
        table_files={"main": {"csv": "tables/main.csv"}},
    )
    return Report(**(fields | changed))


def hostile():
    h, script = HOSTILE, "javascript:hacked=1"
    cell = Value(h, BEST, h, script)
    table = Table(h, h, [Part([Column(h), Column("x")], [[[cell, cell], [cell, cell]]])], [h])
    shown = PageFigure(h, h, h, f"<svg><text>{h}</text></svg>", {h: script})
    tables, failures = [table, Table(h, h, [], [h], fill=h)], [Failure(h, h, h, "data:text/html,x")]
    files = {h: {"csv": "//example.org/x"}}
    notes, facts, link = [(h, [h])], {h: h}, script.upper()
    return Report(h, h, h, {"done": 1}, h, [h], tables, [shown, shown], failures, notes, facts, link, files)


def opened(browser, folder, report):
    """The browser with a report's page, opened from disk."""
    (folder / "index.html").write_text(page(report), encoding="utf-8")
    browser.get((folder / "index.html").as_uri())
    return browser


def test_the_page_has_its_parts_in_order():
    read = Reader(page(sample()))
    assert read.texts("h1") == ["Report of study quick (synthetic stand-in data)"] == read.texts("title")
    assert read.texts("h2") == ["Summary", "Tables", "Figures", "Failures", "Notes", ""]
    assert read.texts("li", **{"class": "done"}) == ["1,312 done"]
    assert read.texts("li", **{"class": "diverged zero"}) == ["0 diverged"]
    titles = ["Table 2: results", "Table 4: ablation", "Figure 5: occlusion", "Figure 4c: alpha placeholder"]
    assert read.texts("h3") == [*titles, "Departures from the papers"]
    assert read.texts("code")[-1] == "make benchmark ARGS='a=1'"
    ids = [attributes["id"] for _, attributes, _ in read.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    places = [e[1]["href"][1:] for e in read.all("a") if e[1]["href"].startswith("#")]
    assert {"table-main", "table-ablation", "figure-occlusion", "figure-alpha"} <= set(places) <= set(ids)
    named = {e[1]["aria-labelledby"] for e in read.found if "aria-labelledby" in e[1]}
    assert named <= set(ids)


def test_a_number_keeps_its_text_mark_link_and_order():
    values = [Value("1.5 ± 0.2 *", BEST, 1.5, RUN), Value("12 ± 3", SECOND, 12), Value("–")]
    values += [Value("nan", order=math.nan), Value("∞", order=-math.inf)]
    rows = [[Value("tfn"), value] for value in values]
    read = Reader(page(sample(tables=[Table("t", "T", [Part([Column("Name"), Column("x", True)], [rows])])])))
    cells = read.all("td")[:5]
    assert [" ".join(text.split()) for _, _, text in cells] == [value.text for value in values]
    orders = [attributes.get("data-n") for _, attributes, _ in cells]
    assert orders == ["1.5", "12.0", None, None, "-Infinity"]
    assert {attributes["class"] for _, attributes, _ in cells} == {"n"}
    assert (read.texts("b")[-1], read.texts("u")) == ("1.5", ["12"])
    link = read.all("a", href=RUN)[0][1]
    assert (link["target"], link["rel"]) == ("_blank", "noopener noreferrer")
    # Names that come without an order are sorted by what they show.
    assert read.all("th", scope="row")[0][1]["data-t"] == "tfn"


GOOD = [RUN, "HTTPS://example.org/a?b=1&c='", "tables/main.csv", "../x.svg", "#a"]
BAD = ["javascript:a()", " javascript:a()", "java\nscript:a()", "data:text/html,x", "vbscript:x", "http://"]
BAD += ["//example.org", "\\\\example.org", "/etc", "file:///etc", "http://a\\b", "http://a b", "x\x00y", ""]


def test_only_the_web_and_files_beside_the_page_are_linked():
    addresses = [*GOOD, *BAD, "http://a/\u202e"]
    failures = [Failure(f"cell {k}", "failed", "", address) for k, address in enumerate(addresses)]
    read = Reader(page(sample(failures=failures)))
    links = [attributes["href"] for _, attributes, text in read.all("a") if text.startswith("cell ")]
    assert links == GOOD
    assert set(read.texts("th", scope="row")) >= {failure.cell for failure in failures}


def test_an_empty_report_says_so():
    read = Reader(page(Report("Report", "empty")))
    told = read.texts("main")[0]
    for sentence in ("nothing to sum up", "no table yet", "no figure yet", "No cell failed or diverged"):
        assert sentence in told
    assert read.all("table") == read.all("img") == []


def test_hostile_texts_stay_texts():
    text = page(hostile())
    text.encode()
    read, clean = Reader(text), Reader(page(sample()))
    assert len(read.all("script")) == len(read.all("style")) == 1
    assert {e[0] for e in read.found} <= {e[0] for e in clean.found}
    allowed = set().union(*(e[1] for e in clean.found))
    assert set().union(*(e[1] for e in read.found)) <= allowed
    assert not re.search(r"[\x00-\x08\x0e-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    assert r"\u202eabc\u0000\u0007\ud800\u2066" in read.texts("h3")[0]
    assert all(e[1]["href"].startswith(("#", "data:,")) for e in read.found if "href" in e[1])


def test_the_page_stands_alone_and_is_the_same_each_time():
    text = page(sample())
    assert text == page(sample())
    assert len(text.encode()) < 10_000_000
    assert not re.search(r"@import|url\(|srcset|<base|http-equiv=\"refresh", text, re.IGNORECASE)
    read = Reader(text)
    assert all(e[1]["src"].startswith("data:") for e in read.found if "src" in e[1])
    assert not [e for e in read.found if e[0] in ("iframe", "object", "embed", "form")]
    assert not [name for e in read.found for name in e[1] if name == "style" or name.startswith("on")]
    policy = read.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][1]["content"]
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(read.all(tag)[0][2].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    image = read.all("img")[0][1]
    assert base64.b64decode(image["src"].partition("base64,")[2]).decode() == SVG
    assert image["alt"] == "Figure 5: occlusion. Bands: 95%."


def test_figures_too_large_for_the_page_are_linked(monkeypatch):
    svg = SVG.replace("<circle", " " * 50_000 + "<circle")
    large = PageFigure("large", "Large", "Many points.", svg, {"svg": "f/l.svg"})
    monkeypatch.setattr(module, "LIMIT", len(page(sample(figures=[])).encode()) + 20_000)
    text = page(sample(figures=[large, *sample().figures]))
    assert len(text.encode()) < module.LIMIT
    read = Reader(text)
    assert (len(read.all("img")), len(read.all("a", href="f/l.svg"))) == (2, 1)
    assert "Too large to show: see its files." in read.texts("p")


def test_colours_are_far_enough_apart_to_read():
    def luminance(colour):
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.05 + np.dot((0.2126, 0.7152, 0.0722), linear)

    css = (files("reports.page") / "page.css").read_text("utf-8")
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", css)
    for scheme in ("light", "dark"):
        colours = {name: luminance(pair[scheme == "dark"]) for name, *pair in pairs}
        grounds = [colours.pop(name) for name in ("page", "card", "soft")]
        del colours["line"]  # lines only part what stands apart anyway
        for (name, colour), ground in itertools.product(colours.items(), grounds):
            assert max(ground / colour, colour / ground) >= (3 if name == "edge" else 4.5), (scheme, name)


@pytest.fixture
def browser(started, tmp_path):
    """The sample, freshly opened from disk."""
    media(started)
    resize(started, 1280)
    yield opened(started, tmp_path, sample())
    started.execute_script("localStorage.clear()")


def column(browser, index, part=0):
    """The texts of a column's visible cells."""
    script = """const table = document.querySelectorAll("#table-main table")[arguments[0]];
        return [...table.tBodies[0].rows].filter((row) => row.checkVisibility())
            .map((row) => row.cells[arguments[1]].textContent);"""
    return browser.execute_script(script, part, index)


def heading(browser, index, part=0):
    tables = browser.find_elements(By.CSS_SELECTOR, "#table-main table")
    return tables[part].find_elements(By.CSS_SELECTOR, "thead th")[index]


def ground(browser, selector):
    return find(browser, selector).value_of_css_property("background-color")


@pytest.mark.parametrize("key", ["", Keys.ENTER])
def test_a_heading_sorts_numbers_and_names_up_down_and_back(browser, key):
    original, title = column(browser, 3), heading(browser, 3)
    known = [text for text in original if text != "–"]
    holes = ["–"] * (len(original) - len(known))
    for state, reverse in (("ascending", False), ("descending", True)):
        button = title.find_element(By.TAG_NAME, "button")
        button.send_keys(key) if key else button.click()
        assert title.get_attribute("aria-sort") == state
        # Python's sort is stable in both directions, too.
        expected = sorted(known, key=lambda text: int(text.split()[0]), reverse=reverse)
        assert column(browser, 3) == expected + holes
    assert heading(browser, 3, part=1).get_attribute("aria-sort") is None
    title.find_element(By.TAG_NAME, "button").click()
    assert title.get_attribute("aria-sort") is None
    assert column(browser, 3) == original
    button = heading(browser, 1).find_element(By.TAG_NAME, "button")
    button.click()
    assert column(browser, 1) == sorted(METHODS * (ROWS // 4)), "names sort as texts"
    first = column(browser, 3)[: ROWS // 4]
    button.click()
    assert column(browser, 3)[-ROWS // 4 :] == first, "ties keep their order"


def test_the_first_stop_of_the_keyboard_skips_to_the_report(browser):
    find(browser, "body").send_keys(Keys.TAB)
    skip = browser.switch_to.active_element
    assert skip.text == "Skip to the report"
    skip.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"


def test_search_and_choices_narrow_the_rows_and_say_so(browser):
    status, search = find(browser, "#table-main .status"), find(browser, "#table-main input")
    assert (status.text, status.get_attribute("aria-live")) == ("308 rows", "polite")
    search.send_keys("MS_mix mosi")
    assert status.text == "75 of 308 rows"
    assert set(column(browser, 1)) == {"ms_mix"}
    assert not heading(browser, 1, part=1).is_displayed()
    find(browser, "#table-main select[data-pick='1']").send_keys("powmix")
    assert status.text == "0 of 308 rows"
    find(browser, "#table-main .clear").click()
    assert status.text == "308 rows"
    assert browser.switch_to.active_element == search
    find(browser, "#table-main select[data-pick='0']").send_keys("sims")
    assert status.text == "8 of 308 rows"
    assert len(column(browser, 0, part=1)) == 8


def test_a_figure_opens_by_enter_zooms_and_closes_by_escape(browser):
    button, dialog = find(browser, "#figure-occlusion .zoom"), find(browser, "dialog")
    button.send_keys(Keys.ENTER)
    assert dialog.is_displayed()
    image, view = find(browser, "dialog img"), find(browser, "dialog .view")
    fitted = image.size["width"]
    find(browser, "[data-do=in]").click()
    assert image.size["width"] == pytest.approx(1.25 * fitted, abs=2)
    view.send_keys("0")
    assert image.size["width"] == pytest.approx(fitted, abs=2)
    view.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert browser.switch_to.active_element == button
    find(browser, "#figure-alpha img").click()
    assert find(browser, "#zoom-title").text.startswith("Figure 4c")
    find(browser, "[data-do=close]").click()
    assert not dialog.is_displayed()
    assert console(browser) == []


@pytest.mark.parametrize(("scheme", "steps"), [("light", ["dark", "light"]), ("dark", ["light", "dark"])])
def test_light_and_dark(browser, scheme, steps):
    media(browser, scheme=scheme)
    grounds = {"light": "rgba(255, 255, 255, 1)", "dark": "rgba(21, 24, 29, 1)"}
    assert ground(browser, "body") == grounds[scheme]
    for step in steps:
        find(browser, "#theme").click()
        assert find(browser, "#theme").text == f"Theme: {step}"
        assert ground(browser, "body") == grounds[step]
        assert ground(browser, ".paper") == grounds["light"]


def test_the_chosen_theme_is_kept_and_followed_by_a_report_beside(browser, tmp_path):
    """In a second tab: a page that is reloaded within milliseconds of the click may lose what it stored."""
    first = browser.current_window_handle
    find(browser, "#theme").click()
    browser.switch_to.new_window("tab")
    try:
        browser.get((tmp_path / "index.html").as_uri())
        until(browser, lambda: find(browser, "#theme").text == "Theme: dark")
        browser.refresh()
        assert find(browser, "#theme").text == "Theme: dark"
        find(browser, "#theme").click()
        browser.switch_to.window(first)
        until(browser, lambda: find(browser, "#theme").text == "Theme: light")
    finally:
        for handle in set(browser.window_handles) - {first}:
            browser.switch_to.window(handle)
            browser.close()
        browser.switch_to.window(first)


def test_nothing_scrolls_sideways_and_hostile_texts_run_nothing(browser, tmp_path):
    assert console(browser) == []
    for report, width in itertools.product((sample(), hostile()), (360, 1280)):
        opened(browser, tmp_path, report)
        resize(browser, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    find(browser, "figure .zoom").click()
    assert browser.execute_script("return typeof hacked") == "undefined"
    assert console(browser) == []
    assert {address.partition(":")[0] for address in requested(browser)} <= {"file", "data"}


def test_print_shows_all_rows_and_no_controls(browser):
    find(browser, "#theme").click()
    media(browser, "print")
    for selector in (".bar", "#table-main input", "#table-main .status", ".files", ".zoom", ".contents"):
        assert not find(browser, selector).is_displayed(), selector
    box = find(browser, "#table-main .box")
    assert box.value_of_css_property("max-height") == "none"
    assert heading(browser, 3).value_of_css_property("position") == "static"
    assert "MAE" in heading(browser, 3).text
    assert ground(browser, "body") == "rgba(255, 255, 255, 1)"


def test_all_is_shown_without_scripts(browser):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.refresh()
        assert len(browser.find_elements(By.CSS_SELECTOR, "#table-main tbody tr")) == ROWS + 8
        controls = browser.find_elements(By.CSS_SELECTOR, "button, input")
        assert {control.is_displayed() for control in controls} == {False}
        assert find(browser, "#figure-occlusion img").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
