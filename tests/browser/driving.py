"""What tests of the page share. Where there is no browser, importing this skips the module that does."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

CHROMIUM = "/usr/bin/chromium"
if not Path(CHROMIUM).exists():
    pytest.skip(f"no browser: {CHROMIUM} is missing (apt-get install chromium)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="no browser driver: pip install playwright")
expect = sync_api.expect

CARDS = "#grid .card:not(.ghost)"


class Watched:
    """What a page asked for and complained about."""

    def __init__(self, page: Any) -> None:
        self.requests: list[Any] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self.heard)

    def heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def forgive_failed_requests(self) -> None:
        """The browser itself reports each 4xx in the console; a test that provokes one forgives that line only."""
        self.complaints = [line for line in self.complaints if "Failed to load resource" not in line]

    def searches(self) -> list[Any]:
        return [request for request in self.requests if urlsplit(request.url).path == "/v1/search"]

    def last_query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.searches()[-1].url).query)


def item(page: Any, service: Any, item_id: str) -> dict[str, Any]:
    reply = page.request.get(f"{service.url.rstrip('/')}/v1/items/{quote(item_id, safe='')}")
    assert reply.ok, reply.text()
    return reply.json()


def searching(page: Any) -> Any:
    """Waits for the reply to the next search, and checks it."""
    return page.expect_response(lambda reply: urlsplit(reply.url).path == "/v1/search")


def upload(page: Any, path: Any) -> None:
    with searching(page):
        page.set_input_files("#file", str(path))
    expect(page.locator("#status")).to_contain_text("best first")


def values(page: Any, name: str) -> list[str]:
    return page.locator(CARDS).evaluate_all(f"cards => cards.map(card => card.dataset.{name})")
