"""A server of the page and Debian's chromium to look at it with."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

from tests.app_server import AppServer
from tests.browser.actions import write_parts

VIEWPORTS = {"desktop": (1280, 900), "phone": (390, 844)}
OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `write_parts` draws."""
    return write_parts(tmp_path_factory.mktemp("parts"))


# Not for the whole session: as long as it lives, no other test of this process can run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; tests are skipped where there is none, but not in CI, which installs it."""
    executable = shutil.which("chromium")
    if executable is None:
        reason = "needs chromium: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to start as root, which containers run as.
        chromium = playwright.chromium.launch(executable_path=executable, chromium_sandbox=os.getuid() != 0)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser, server: AppServer) -> Iterator[OpenPage]:
    """`open_page("phone", "dark")` opens the page as a new visitor; an error in its scripts fails the test."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def stay_here(route: Route) -> None:
        route.continue_() if route.request.url.startswith(server.url) else route.abort()

    def open_one(viewport: str = "desktop", scheme: str = "light") -> Page:
        width, height = VIEWPORTS[viewport]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        context.route("http*://**", stay_here)
        context.on("weberror", lambda fault: faults.append(str(fault.error)))
        page = context.new_page()
        page.goto(f"{server.url}/?__theme={scheme}")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """The page on a desktop in light colours."""
    return open_page()
