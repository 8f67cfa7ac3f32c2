"""A real browser, and a fresh page of the running service a test.

`service` has `.url`, `.photo_paths` (local files that are in the catalogue) and `.item_ids`, in the same order.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from driving import CHROMIUM, sync_api  # here: where there is no browser, the tests skip by name

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, service: Any) -> Iterator[Any]:
    """A fresh page; whatever the test does, it must leave no complaint and ask no other origin."""
    from driving import Watched, expect

    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.watched = Watched(page)
    page.goto(service.url)
    expect(page.locator("#start .card").first).to_be_visible(timeout=20_000)  # no search of the page's own is under way
    yield page
    origins = {urlsplit(request.url)[:2] for request in page.watched.requests if request.url.startswith("http")}
    complaints = page.watched.complaints
    context.close()
    assert origins == {urlsplit(service.url)[:2]}
    assert complaints == []
