"""A real study's page in a real browser, opened from disk, and its runs in the MLflow UI."""

import os
import re
import signal
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlparse

import psutil
import pytest
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By

from reports.figures.registry import FIGURES
from reports.mlflow_links import LOCAL
from tests.support.browser import chromium, console, find, requested, until

pytestmark = pytest.mark.slow
METHODS, BACKBONES = ("none", "mixup", "ms_mix"), ("tfn", "lmf")
CELLS = 2 * len(METHODS) * len(BACKBONES)


@pytest.fixture(scope="module")
def var(train_study):
    """A study with a report."""
    return train_study(f"methods=[{','.join(METHODS)}]", "report=true")


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path / "profile", 2600) as browser:
        yield browser


def text_of(browser):
    """All that is shown; empty while the page replaces it."""
    try:
        return browser.find_element(By.TAG_NAME, "body").text
    except StaleElementReferenceException:
        return ""


def test_the_page_works_from_disk(var, browser):
    page = var / "reports" / "s" / "index.html"
    browser.get(page.as_uri())
    assert "synthetic stand-in data" in browser.find_element(By.TAG_NAME, "h1").text
    table = find(browser, "table[aria-labelledby='table-table2_mosi_mosei-title']")
    rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    assert len(rows) == len(BACKBONES) * len(METHODS)
    search = table.find_element(By.XPATH, "preceding::input[@type='search'][1]")
    search.send_keys("MS-Mix")
    assert ["MS-Mix" in row.text for row in rows if row.is_displayed()] == [True] * len(BACKBONES)
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure img")) == len(FIGURES)
    assert console(browser) == []
    assert {urlparse(url).scheme for url in requested(browser)} <= {"file", "data"}
    links = {a.get_attribute("href") for a in browser.find_elements(By.CSS_SELECTOR, "td a")}
    assert links
    assert all(link.startswith(f"{LOCAL}/#/experiments/") for link in links)
    files = {a.get_attribute("href") for a in browser.find_elements(By.XPATH, "//a[.='PDF' or .='CSV']")}
    assert len(files) > len(FIGURES)
    assert all(Path(unquote(urlparse(url).path)).is_file() for url in files)


@pytest.fixture
def served(var):
    """The UI as `make ui` starts it, and what it printed."""
    command = [sys.executable, "-m", "reports.ui", f"var_dir={var}", "study=s"]
    # What switches telemetry off is to be ours.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    process = subprocess.Popen(command, env=environment, **options)
    yield next(line for line in process.stdout if line.startswith("Open ")), process.pid
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_ui_shows_the_studys_cells(served, browser, var):
    line, group = served
    link = re.fullmatch(r"Open (\S+)\n", line)[1]
    assert link.startswith(LOCAL)

    def loaded():
        try:
            browser.get(link)
        except WebDriverException:  # it takes a while until it listens
            return False
        return True

    until(browser, loaded)

    def names():
        return set(re.findall(r"synthetic_mosi/(?:tfn|lmf)/\w+/seed\d+", text_of(browser)))

    until(browser, lambda: f"{CELLS} matching runs" in text_of(browser))
    every = {f"synthetic_mosi/{b}/{m}/seed{s}" for b in BACKBONES for m in METHODS for s in (1111, 1112)}
    assert until(browser, names) <= every
    until(
        browser,
        lambda: all(column in text_of(browser) for column in ("Dataset", "test/mae", "backbone", "variant")),
    )
    # The list behind a mean of the report.
    page = unescape((var / "reports" / "s" / "index.html").read_text())
    links = set(re.findall(r'href="([^"]*searchFilter=[^"]*)"', page))
    [link] = [link for link in links if "%27tfn%27" in link and "%27ms_mix%27" in link]
    browser.get("about:blank")
    browser.get(link)
    until(browser, lambda: "2 matching runs" in text_of(browser))
    assert until(browser, names) == {f"synthetic_mosi/tfn/ms_mix/seed{s}" for s in (1111, 1112)}
    addresses = map(urlparse, requested(browser))
    hosts = {address.hostname for address in addresses if address.scheme in ("http", "https")}
    assert hosts == {"127.0.0.1"}, "nothing is asked of another machine"
    members = [psutil.Process(group), *psutil.Process(group).children(recursive=True)]
    ports = [port.laddr for member in members for port in member.net_connections() if port.status == "LISTEN"]
    assert set(ports) == {("127.0.0.1", 5000)}, "nothing but this machine can reach it"
    assert len(members) <= 3, "one server, and no runners of background jobs"
    for member in members:
        assert member.environ()["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert "mlflow.db" not in " ".join(member.cmdline()), "an address may hold a password"
