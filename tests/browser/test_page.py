"""Drives the search page in a real browser against the running service."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from driving import CARDS, expect, item, searching, upload, values

pytestmark = [pytest.mark.browser, pytest.mark.serve]


def test_an_uploaded_photo_finds_its_own_product_first(page: Any, service: Any) -> None:
    for path, item_id in list(zip(service.photo_paths, service.item_ids, strict=True))[:3]:
        upload(page, path)
        assert values(page, "product")[0] == item(page, service, item_id)["product_id"]
        scores = [float(text) for text in page.locator(f"{CARDS} .number").all_inner_texts()]
        assert scores == sorted(scores, reverse=True)
        expect(page.locator("#warning")).to_be_hidden()
        page.wait_for_function("document.querySelector('#grid img').naturalWidth > 0")


def test_a_photo_can_be_pasted(page: Any, service: Any) -> None:
    data = list(Path(service.photo_paths[0]).read_bytes())
    with searching(page):
        page.evaluate(
            """bytes => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(bytes)], "pasted.jpg", { type: "image/jpeg" }));
                document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true }));
            }""",
            data,
        )
    expect(page.locator("#status")).to_contain_text("best first")
    assert values(page, "product")[0] == item(page, service, service.item_ids[0])["product_id"]


def test_a_photo_can_be_dropped(page: Any, service: Any) -> None:
    data = list(Path(service.photo_paths[0]).read_bytes())
    with searching(page):
        page.evaluate(
            """bytes => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", { type: "image/jpeg" }));
                for (const kind of ["dragover", "drop"])
                    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
            }""",
            data,
        )
    expect(page.locator("#status")).to_contain_text("best first")
    expect(page.locator("#dropping")).to_be_hidden()


def test_a_vertical_chip_filters_and_stays_in_the_link(page: Any, service: Any) -> None:
    upload(page, service.photo_paths[0])
    own = item(page, service, service.item_ids[0])["vertical"]
    chips = page.locator("#chips input")
    other = next(name for name in chips.evaluate_all("chips => chips.map(chip => chip.value)") if name != own)
    with searching(page):
        page.locator(f"#chips input[value='{other}']").check()
    expect(page.locator("#status")).to_contain_text("best first")
    assert set(values(page, "vertical")) == {other}
    assert page.watched.last_query()["vertical"] == [other]
    assert f"vertical={other}" in page.url


def test_a_look_filters_and_stays_in_the_link(page: Any, service: Any) -> None:
    upload(page, service.photo_paths[0])
    select = page.locator("#looks select").first
    column = select.get_attribute("data-column")
    value = select.locator("option").nth(1).get_attribute("value")
    with searching(page):
        select.select_option(value)
    expect(page.locator("#status")).to_contain_text("best first")
    assert page.watched.last_query()["attribute"] == [f"{column}={value}"]
    found = [item(page, service, item_id)["attributes"] for item_id in values(page, "item")]
    assert found
    assert {value} == {attributes[column] for attributes in found}
    page.goto(page.url)
    page.reload()
    expect(select).to_have_value(value)
    with searching(page):
        select.select_option("")
    assert "attribute" not in page.url


def test_one_result_per_product(page: Any, service: Any) -> None:
    upload(page, service.photo_paths[0])
    with searching(page):
        page.get_by_label("One result per product").check()
    expect(page.locator("#status")).to_contain_text("best first")
    products = values(page, "product")
    assert len(products) == len(set(products))
    assert page.watched.last_query()["group_by"] == ["product"]


def test_a_crop_changes_the_request(page: Any, service: Any) -> None:
    upload(page, service.photo_paths[0])
    assert "crop" not in page.watched.last_query()
    before = len(page.watched.searches())
    page.wait_for_function("document.querySelector('#preview').complete")
    frame = page.locator("#frame").bounding_box()
    at = lambda x, y: (frame["x"] + frame["width"] * x, frame["y"] + frame["height"] * y)  # noqa: E731
    with searching(page):
        page.mouse.move(*at(0.99, 0.99))
        page.mouse.down()
        page.mouse.move(*at(0.79, 0.59), steps=6)
        page.mouse.up()
    expect(page.locator("#status")).to_contain_text("best first")
    crop = [float(x) for x in page.watched.last_query()["crop"][0].split(",")]
    assert crop == pytest.approx([0, 0, 0.8, 0.6], abs=0.03)
    assert len(page.watched.searches()) == before + 1  # the drag's steps are one search

    with searching(page):
        page.get_by_role("button", name="Reset crop").click()
    expect(page.locator("#status")).to_contain_text("best first")
    assert "crop" not in page.watched.last_query()


def test_a_text_file_shows_the_services_error(page: Any, service: Any, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a photo " * 50)
    with searching(page) as waited:
        page.set_input_files("#file", str(text))
    error = waited.value.json()["error"]
    assert 400 <= waited.value.status < 500
    expect(page.locator("#error")).to_contain_text(error["message"])
    assert page.locator(CARDS).count() == 0
    expect(page.locator("#retry")).to_be_hidden()  # trying the same again would not help

    upload(page, service.photo_paths[0])  # and the page goes on
    expect(page.locator("#error")).to_be_hidden()
    page.watched.forgive_failed_requests()


def test_details_more_like_this_and_back(page: Any, service: Any) -> None:
    upload(page, service.photo_paths[0])
    chosen = values(page, "item")[1]
    page.locator(f"{CARDS} .tile").nth(1).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(chosen)
    with searching(page):
        dialog.get_by_role("button", name="More like this").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("best first")
    assert page.watched.searches()[-1].post_data_json["item_id"] == chosen
    assert parse_qs(urlsplit(page.url).fragment)["item"] == [chosen]
    found = values(page, "item")

    with searching(page):
        page.reload()  # the link alone brings the search back
    expect(page.locator("#status")).to_contain_text("best first")
    assert values(page, "item") == found
    expect(page.locator("#caption")).to_contain_text(item(page, service, chosen)["product_id"])


def test_back_returns_to_the_photo_and_its_crop(page: Any, service: Any) -> None:
    upload(page, service.photo_paths[0])
    with searching(page):
        page.locator("#box").focus()
        page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator("#status")).to_contain_text("best first")
    cropped = page.watched.last_query()["crop"]
    with searching(page):
        page.locator(f"{CARDS} .more").first.click()
    expect(page.locator("#query-title")).to_have_text("More like")
    with searching(page):
        page.go_back()
    expect(page.locator("#query-title")).to_have_text("Your photo")
    assert page.watched.last_query()["crop"] == cropped


def test_a_newer_search_takes_the_place_of_an_older_one(page: Any, service: Any) -> None:
    held: list[Any] = []
    page.route("**/v1/search*", lambda route: route.continue_() if held else held.append(route))
    page.set_input_files("#file", str(service.photo_paths[0]))
    expect(page.locator("#grid[aria-busy] .ghost").first).to_be_visible()
    with searching(page):
        page.get_by_label("One result per product").check()
    expect(page.locator("#status")).to_contain_text("best first")
    assert "ABORTED" in held[0].request.failure


def test_an_unknown_item_is_told(page: Any) -> None:
    page.get_by_label("Or search by item id").fill("no-such-item")
    with searching(page) as waited:
        page.keyboard.press("Enter")
    expect(page.locator("#error")).to_contain_text(waited.value.json()["error"]["message"])
    page.wait_for_load_state("networkidle")
    page.watched.forgive_failed_requests()


def test_the_page_offers_starting_points(page: Any) -> None:
    expect(page.locator("#start .card").first).to_be_visible()
    with searching(page):
        page.locator("#start .more").first.click()
    expect(page.locator("#status")).to_contain_text("best first")
    expect(page.locator("#start")).to_be_hidden()


def test_everything_works_from_the_keyboard(page: Any, service: Any) -> None:
    def focused() -> str:
        return page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.value")

    seen = []
    for _ in range(4):
        page.keyboard.press("Tab")
        seen.append(focused())
    assert seen == ["skip", "home", "file", "item-id"]

    page.keyboard.type(service.item_ids[0])
    with searching(page):
        page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("best first")
    page.locator("#group").focus()
    with searching(page):
        page.keyboard.press("Space")
    expect(page.locator("#status")).to_contain_text("best first")
    assert page.watched.searches()[-1].post_data_json["group_by"] == "product"

    page.locator(f"{CARDS} .tile").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert focused() == "tile"  # focus is back where it was
    page.keyboard.press("Tab")
    assert focused() == "more"
    with searching(page):
        page.keyboard.press("Enter")
    expect(page.locator("#results-title")).to_be_focused()

    upload(page, service.photo_paths[0])
    with searching(page):
        page.locator("#box").focus()
        for key in ("Shift+ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowUp", "ArrowRight"):
            page.keyboard.press(key)
    crop = [float(x) for x in page.watched.last_query()["crop"][0].split(",")]
    assert crop == pytest.approx([0.02, 0, 0.98, 0.98])
    with searching(page):
        page.keyboard.press("Escape")
    assert "crop" not in page.watched.last_query()


def test_the_policy_forbids_everything_foreign(page: Any, service: Any) -> None:
    reply = page.request.get(service.url)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?:", policy)


@pytest.mark.parametrize("width", [320, 390, 800, 1280])
def test_nothing_sticks_out_sideways(page: Any, service: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    upload(page, service.photo_paths[0])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
