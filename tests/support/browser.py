"""Pages for tests: their text, or as rendered by Debian's Chromium without a window.

Nothing is downloaded for it.
"""

import json
import os
import shutil
from contextlib import contextmanager
from html.parser import HTMLParser

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

NO_BROWSER = "Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)"
VOID = {"meta", "link", "img", "input"}


class Reader(HTMLParser):
    """Tags with attributes, the text of each, and whether tags are closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.found = [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.found.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.found[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **attributes):
        return [e for e in self.found if e[0] == tag and attributes.items() <= e[1].items()]

    def texts(self, tag, **attributes):
        return [" ".join(text.split()) for _, _, text in self.all(tag, **attributes)]


def elements(text):
    """(tag, "") of each element of a page, and (tag, name) of each of its attributes."""
    return {(tag, name) for tag, attributes, _ in Reader(text).found for name in ("", *attributes)}


def browser_programs():
    """The paths of Chromium and of its driver; empty where one of them is not installed."""
    paths = [shutil.which("chromium"), shutil.which("chromedriver")]
    return paths if all(paths) else []


@contextmanager
def chromium(folder, width=1280):
    """A browser with a profile of its own in a folder."""
    program, driver = browser_programs()
    # Selenium's manager would search the network for drivers.
    os.environ["SE_OFFLINE"] = "true"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={folder}", f"--window-size={width},900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        # Requests of the first, empty tab belong to no test.
        browser.get("about:blank")
        requested(browser)
        yield browser
    finally:
        browser.quit()


def console(browser):
    """Messages of the console since the last call, of any level."""
    return [f"{entry['level']}: {entry['message']}" for entry in browser.get_log("browser")]


def requested(browser):
    """Addresses that pages asked for since the last call, answered or not."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def resize(browser, width):
    """Lay the page out in a view of this size, whatever the least size of a window is."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def media(browser, kind="", scheme=""):
    """Show the page as printed (kind: "print"), or in a colour scheme, "light" or "dark"."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": features})


def find(browser, selector):
    """The first element of a CSS selector."""
    return browser.find_element(By.CSS_SELECTOR, selector)


def until(browser, holds):
    """Poll a condition on another process; return its first true value."""
    return WebDriverWait(browser, 90).until(lambda _: holds())
