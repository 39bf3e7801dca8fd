"""A browser for the tests of pages."""

import pytest

from tests.support.browser import chromium


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    """A browser that is started once, because that takes seconds; what a page stores must be cleared."""
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser
