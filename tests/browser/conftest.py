"""A server of the page and Debian's chromium to look at it with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

from tests.app_server import AppServer, running_app

VIEWPORTS = {"desktop": (1280, 900), "phone": (390, 844)}
OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """A server of its own for the tests of a module."""
    with running_app(tmp_path_factory.mktemp("served")) as app:
        yield app


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
