"""A real browser for tests of pages: the Chromium that is installed, without a window and without a network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A `playwright.sync_api.Browser`; skips with the reason where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        except api.Error as error:
            pytest.skip(f"{path} does not start here: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


class Visit:
    """A page that is open in a browser, with what it asked for and what it complained of.

    Args:
        browser: from `chromium`.
        url: where the page is.
        width: of the window, in pixels.
        options: further ones of `Browser.new_context`.
    """

    def __init__(self, browser: Any, url: str, *, width: int = 1280, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **{"offline": True} | options)
        self.context.set_default_timeout(10_000)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        self.page.goto(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def look(self, script: str, given: Any = None) -> Any:
        """What a script finds on the page."""
        return self.page.evaluate(script, given)
