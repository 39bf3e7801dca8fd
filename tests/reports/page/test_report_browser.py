"""A real study's page in a real browser, opened from disk, and its runs in the MLflow UI."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By

from reports.figures.registry import FIGURES
from reports.mlflow_links import LOCAL
from tests.support.browser import chromium, console, find, requested

pytestmark = pytest.mark.slow
METHODS, BACKBONES = ("none", "mixup", "ms_mix"), ("tfn", "lmf")
CELLS = 2 * len(METHODS) * len(BACKBONES)


@pytest.fixture(scope="module")
def var(train_study):
    """A study with a report."""
    return train_study(f"methods=[{','.join(METHODS)}]", "report=true")


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path / "profile", 1900) as browser:
        yield browser


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError("waited in vain")


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

    def rows():
        shown = (row.text for row in table.find_elements(By.CSS_SELECTOR, "tbody tr") if row.is_displayed())
        return [" ".join(text.split()) for text in shown]

    before = rows()
    assert len(before) == len(BACKBONES) * len(METHODS)
    [mae] = [b for b in table.find_elements(By.CSS_SELECTOR, "thead button") if b.text.startswith("MAE")]
    mae.click()
    assert rows() != before
    assert sorted(rows()) == sorted(before)
    search = table.find_element(By.XPATH, "preceding::input[@type='search'][1]")
    search.send_keys("ms_mix")
    assert len(rows()) == len(BACKBONES)
    assert all("ms_mix" in row for row in rows())
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure img")) == len(FIGURES)
    assert console(browser) == []
    assert {urlparse(url).scheme for url in requested(browser)} <= {"file", "data"}
    links = {a.get_attribute("href") for a in browser.find_elements(By.CSS_SELECTOR, "td a")}
    assert links
    assert all(link.startswith(f"{LOCAL}/#/experiments/") for link in links)
    files = {a.get_attribute("href") for a in browser.find_elements(By.XPATH, "//a[.='PDF' or .='CSV']")}
    assert len(files) > len(FIGURES)
    assert all(Path(unquote(urlparse(url).path)).is_file() for url in files)


def members_of(group):
    """The processes of a group, as folders below /proc."""
    found = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [folder for folder in found if group == group_of(int(folder.name))]


def group_of(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def listening(members):
    """The addresses and ports at which processes listen."""
    links = [os.readlink(link) for member in members for link in (member / "fd").iterdir()]
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in links:
                address, port = local.split(":")
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


@pytest.fixture
def served(var):
    """The UI as `make ui` starts it, and what it printed."""
    command = [sys.executable, "-m", "reports.ui", f"var_dir={var}", "study=s"]
    # What switches telemetry off is to be ours.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
    )
    yield process.stdout.readline(), process.pid
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

    wait_for(loaded)

    def names():
        return set(re.findall(r"synthetic_mosi/(?:tfn|lmf)/\w+/seed\d+", text_of(browser)))

    wait_for(lambda: f"{CELLS} matching runs" in text_of(browser))
    every = {f"synthetic_mosi/{b}/{m}/seed{s}" for b in BACKBONES for m in METHODS for s in (1111, 1112)}
    assert wait_for(names) <= every
    wait_for(lambda: all(column in text_of(browser) for column in ("test/mae", "backbone", "variant")))
    # The list behind a mean of the report.
    page = unescape((var / "reports" / "s" / "index.html").read_text())
    [link] = [
        link
        for link in set(re.findall(r'href="([^"]*searchFilter=[^"]*)"', page))
        if "%27tfn%27" in link and "%27ms_mix%27" in link
    ]
    browser.get("about:blank")
    browser.get(link)
    wait_for(lambda: "2 matching runs" in text_of(browser))
    assert wait_for(names) == {f"synthetic_mosi/tfn/ms_mix/seed{s}" for s in (1111, 1112)}
    hosts = {
        urlparse(url).hostname for url in requested(browser) if urlparse(url).scheme in ("http", "https")
    }
    assert hosts == {"127.0.0.1"}, "nothing is asked of another machine"
    members = members_of(group)
    assert listening(members) == {("127.0.0.1", 5000)}, "nothing but this machine can reach it"
    for member in members:
        assert b"MLFLOW_DISABLE_TELEMETRY=true\0" in (member / "environ").read_bytes()
        assert b"mlflow.db" not in (member / "cmdline").read_bytes(), "an address may hold a password"
