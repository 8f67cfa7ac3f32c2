"""Drives the search page in a real browser: liked and disliked items, further pages, and what a phone has more."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from driving import CARDS, expect, searching, upload, values

pytestmark = [pytest.mark.browser, pytest.mark.serve]


def taste(page: Any, nth: int, side: str) -> str:
    """Press `plus` or `minus` of a card, wait for the answer, and say which item it was."""
    chosen = page.locator(CARDS).nth(nth)
    item_id = chosen.get_attribute("data-item")
    chosen.hover()
    with searching(page):
        chosen.locator(f".{side}").click()
    expect(page.locator("#status")).to_contain_text("best first")
    return item_id


def in_link(page: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).fragment)


def test_liked_and_disliked_items_beside_a_photo(page: Any, service: Any) -> None:
    upload(page, service.photo_paths[0])
    first = values(page, "item")
    liked, unliked = taste(page, 3, "plus"), taste(page, 5, "minus")
    query = page.watched.last_query()
    assert (query["like"], query["unlike"]) == ([liked], [unliked])
    assert (in_link(page)["like"], in_link(page)["unlike"]) == ([liked], [unliked])
    assert not {liked, unliked} & set(values(page, "item"))
    expect(page.locator("#taste .liked")).to_have_attribute("data-item", liked)
    expect(page.locator("#taste .unliked")).to_have_attribute("data-item", unliked)
    expect(page.locator("#results-title")).to_be_focused()

    with searching(page):
        page.go_back()
    expect(page.locator("#taste .pick")).to_have_count(1)
    expect(page.locator("#query-title")).to_have_text("Your photo")  # the photo is still searched for
    assert page.watched.last_query()["like"] == [liked]
    with searching(page):
        page.get_by_role("button", name="No longer more like").click()
    expect(page.locator("#taste")).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("best first")
    assert values(page, "item") == first
    assert not in_link(page)


def test_a_link_brings_likes_back_and_a_new_side_takes_over(page: Any, service: Any) -> None:
    with searching(page):
        page.locator("#start .card").first.locator(".plus").focus()
        page.keyboard.press("Enter")  # likes alone, from the keyboard
    expect(page.locator("#status")).to_contain_text("best first")
    expect(page.locator("#drop")).to_be_visible()
    unliked = taste(page, 2, "minus")
    asked = page.watched.searches()[-1].post_data_json
    assert (len(asked["like"]), asked["unlike"]) == (1, [unliked])
    assert not {"item_id", "vector"} & set(asked)
    found = values(page, "item")

    with searching(page):
        page.reload()
    expect(page.locator("#status")).to_contain_text("best first")
    assert values(page, "item") == found
    expect(page.locator(f"#taste .unliked[data-item='{unliked}'] .pick-name")).not_to_have_text(
        unliked
    )  # its name was asked for

    page.locator("#taste .liked button").focus()
    page.keyboard.press("Enter")  # nothing is left to be unlike of
    expect(page.locator("#start .card").first).to_be_visible()
    expect(page.locator("#taste")).to_be_hidden()


def test_an_item_isnt_among_its_own_results_and_can_be_disliked_from_its_details(page: Any, service: Any) -> None:
    upload(page, service.photo_paths[0])
    chosen = values(page, "item")[1]
    page.locator(CARDS).nth(1).hover()
    with searching(page):
        page.locator(f"{CARDS} .more").nth(1).click()
    expect(page.locator("#status")).to_contain_text("best first")
    assert chosen not in values(page, "item")
    other = values(page, "item")[0]
    page.locator(f"{CARDS} .tile").first.click()
    with searching(page):
        page.get_by_role("dialog").get_by_role("button", name="Less like this").click()
    expect(page.locator("#status")).to_contain_text("best first")
    asked = page.watched.searches()[-1].post_data_json
    assert (asked["item_id"], asked["unlike"]) == (chosen, [other])


@pytest.mark.parametrize("by_photo", [True, False])
def test_show_more_goes_on_where_the_page_ended(page: Any, service: Any, by_photo: bool) -> None:
    page.locator("#k").select_option("10")
    if by_photo:
        upload(page, service.photo_paths[0])
    else:
        page.get_by_label("Or search by item id").fill(service.item_ids[0])
        with searching(page):
            page.keyboard.press("Enter")
        expect(page.locator("#status")).to_contain_text("best first")
    button, pages, count = page.get_by_role("button", name="Show more"), 1, 10
    while button.is_visible():
        with searching(page):
            button.click()
        expect(page.locator(f"{CARDS} .tile").nth(count)).to_be_focused()
        expect(page.locator("#further-button[aria-busy='true']")).to_have_count(0)
        asked = page.watched.searches()[-1].post_data_json
        assert asked["offset"] == count == 10 * pages
        assert by_photo == ("vector" in asked)  # the photo itself isn't sent again
        pages, count = pages + 1, page.locator(CARDS).count()
    assert pages > 2
    shown = values(page, "item")
    assert len(shown) == len(set(shown)) == page.request.get(f"{service.url}/v1/index").json()["items"] - (not by_photo)
    scores = [float(text) for text in page.locator(f"{CARDS} .number").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    expect(page.locator("#status")).to_contain_text(f"{len(shown)} results")


def test_a_page_that_fails_keeps_what_is_shown(page: Any, service: Any) -> None:
    page.locator("#k").select_option("10")
    upload(page, service.photo_paths[0])
    shown = values(page, "item")
    page.route("**/v1/search", lambda route: route.abort())
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#further-error")).to_contain_text("can't be reached")
    assert values(page, "item") == shown
    page.unroute("**/v1/search")
    with searching(page):
        page.get_by_role("button", name="Try again").click()
    expect(page.locator(CARDS)).to_have_count(20)
    expect(page.locator("#further-error")).to_be_hidden()

    def of_another_index(route: Any) -> None:
        route.continue_(post_data={**route.request.post_data_json, "index": "another"})

    page.route("**/v1/search", of_another_index)
    with searching(page) as waited:
        page.get_by_role("button", name="Show more").click()
    assert waited.value.status == 409
    expect(page.locator("#further-error")).to_contain_text("begin again")
    page.unroute("**/v1/search")
    with searching(page):
        page.get_by_role("button", name="Search again").click()
    expect(page.locator(CARDS)).to_have_count(10)
    assert values(page, "item") == shown
    page.watched.forgive_failed_requests()


def test_a_phone_offers_its_camera(browser: Any, service: Any) -> None:
    for touch in (True, False):
        context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=touch, is_mobile=touch)
        page = context.new_page()
        page.goto(service.url)
        expect(page.locator("#start .card").first).to_be_visible(timeout=20_000)
        expect(page.get_by_text("Take a photo")).to_be_visible(visible=touch)
        if touch:
            assert page.locator("#camera").get_attribute("capture") == "environment"
            with searching(page):
                page.set_input_files("#camera", str(service.photo_paths[0]))
            expect(page.locator("#status")).to_contain_text("best first")
            with searching(page):
                page.locator(f"{CARDS} .minus").nth(2).tap()
            expect(page.locator("#taste .unliked")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
        context.close()
