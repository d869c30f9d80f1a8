"""The page, as a person uses it: a real Chromium, over real HTTP."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from playwright.sync_api import expect

from infill.pipeline.serving.http.auth import new_key
from infill.pipeline.serving.http.inpaint_service import HttpConfig

WAIT_MS = 20_000


@pytest.fixture
def address(serving, replica) -> Iterator[str]:
    with serving(replica, HttpConfig()) as url:
        yield url


def test_page_and_reference_are_not_cut(address, require_fit):
    require_fit(address)
    require_fit(f"{address}/docs")


@pytest.fixture
def page(browser, address):
    """Open the page; whatever it asks of others, or complains of, fails the test."""
    with browser.new_context(has_touch=True, accept_downloads=True) as context:
        page = context.new_page()
        elsewhere, complaints = [], []
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "blob:", "data:"))
                else elsewhere.append(request.url)
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: complaints.append(message.text) if message.type == "error" else None,
        )
        page.complaints = complaints
        page.goto(address)
        yield page
        assert not elsewhere
        assert not complaints


def photograph(make, height: int = 90, width: int = 120) -> dict:
    data = make.file(make.photograph(height, width))
    return {"name": "photo.png", "mimeType": "image/png", "buffer": data}


def load(page, file: dict) -> dict:
    """Give the page a photograph and return where the brush is on the screen."""
    page.set_input_files("#file", file)
    with Image.open(io.BytesIO(file["buffer"])) as opened:
        width, height = ImageOps.exif_transpose(opened).size
    expect(page.locator("#said")).to_have_text(f"{width} × {height} px")
    return page.locator("#brush").bounding_box()


def stroke(page, box: dict, points: list[tuple[float, float]]) -> None:
    """Pull the mouse over parts of the picture."""
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def painted(page) -> int:
    """Count the pixels under the brush's strokes."""
    return page.evaluate(
        "() => { const c = document.getElementById('brush'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; let n = 0;"
        "for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"
    )


def fill(page) -> None:
    page.click("#fill")
    page.wait_for_selector("#result:not([hidden])", timeout=WAIT_MS)


def downloaded(page) -> np.ndarray:
    with page.expect_download() as waiting:
        page.click("#save")
    assert waiting.value.suggested_filename == "filled.png"
    return np.asarray(Image.open(io.BytesIO(Path(waiting.value.path()).read_bytes())))


def test_an_example_is_ready_to_be_filled(page):
    expect(page.locator("#said")).to_contain_text("An example: press Fill")
    assert painted(page) > 1000
    fill(page)
    assert downloaded(page).shape == (300, 451, 3)


def test_a_photograph_takes_the_place_of_the_example(page, make):
    box = load(page, photograph(make))
    assert painted(page) == 0
    stroke(page, box, [(0.2, 0.5), (0.8, 0.5)])
    fill(page)
    assert downloaded(page).shape == (90, 120, 3)


def test_a_hole_is_painted_filled_compared_and_downloaded(page, make):
    file = photograph(make)
    box = load(page, file)
    assert page.is_disabled("#fill")
    stroke(page, box, [(0.4, 0.5), (0.6, 0.5)])
    assert not page.is_disabled("#fill")
    fill(page)
    assert "spn@1 filled" in page.text_content("#said")
    before, after = np.asarray(Image.open(io.BytesIO(file["buffer"]))), downloaded(page)
    assert after.shape == before.shape
    changed = (before != after).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert changed[45, 60]
    assert 30 < columns.min() < columns.max() < 90
    assert 25 < rows.min() < rows.max() < 65
    page.focus("#slide")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    style = page.get_attribute("#result", "style")
    assert "--cut: 60%" in style or "--cut:60%" in style
    page.keyboard.press("Escape")
    assert page.is_visible("#brush")
    assert painted(page) > 0


def test_strokes_are_undone_erased_and_cleared(page, make):
    box = load(page, photograph(make))
    stroke(page, box, [(0.2, 0.3), (0.8, 0.3)])
    one = painted(page)
    stroke(page, box, [(0.2, 0.7), (0.8, 0.7)])
    both = painted(page)
    assert both > 1.8 * one > 0
    page.click("#undo")
    assert painted(page) == one
    page.click("#erase")
    stroke(page, box, [(0.5, 0.3), (0.9, 0.3)])
    assert 0 < painted(page) < one
    page.keyboard.press("Control+z")
    assert painted(page) == one
    page.click("#clear")
    assert painted(page) == 0
    assert page.is_disabled("#fill")


def test_brush_has_a_size(page, make):
    box = load(page, photograph(make))
    sizes = []
    for size in ("10", "60"):
        page.locator("#size").fill(size)
        stroke(page, box, [(0.5, 0.5), (0.5, 0.5)])
        sizes.append(painted(page))
        page.click("#clear")
    assert sizes[1] > 10 * sizes[0]


def test_keys_alone_do_it(page, make):
    load(page, photograph(make))
    page.focus("#brush")
    for key in ("ArrowLeft", "ArrowUp", " ", "+", "Shift+ArrowRight"):
        page.keyboard.press(key)
    assert painted(page) > 50
    page.keyboard.press("e")
    assert page.get_attribute("#erase", "aria-pressed") == "true"
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result:not([hidden])", timeout=WAIT_MS)
    page.keyboard.press("Escape")
    page.focus("#brush")
    page.keyboard.press("z")
    page.keyboard.press("z")
    assert painted(page) == 0


def test_a_finger_paints(page, make):
    box = load(page, photograph(make))
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert painted(page) > 50


def test_the_result_can_be_inpainted_again(page, make):
    box = load(page, photograph(make))
    stroke(page, box, [(0.4, 0.5), (0.6, 0.5)])
    fill(page)
    first = downloaded(page)
    page.click("#on")
    page.wait_for_selector("#drawing:not([hidden])")
    assert painted(page) == 0
    stroke(page, page.locator("#brush").bounding_box(), [(0.2, 0.2), (0.3, 0.2)])
    fill(page)
    second = downloaded(page)
    changed = (first != second).any(axis=-1)
    assert changed[18, 30]
    assert not changed[45, 60]


def test_what_the_service_refuses_is_said(page, make):
    box = load(page, photograph(make))
    stroke(page, box, [(0.4, 0.5), (0.6, 0.5)])
    page.fill("#count", "3")
    page.click("#fill")
    page.wait_for_selector("#said.wrong")
    assert "generates one result: ask for one sample" in page.text_content("#said")
    assert not page.is_disabled("#fill")
    assert any("400" in one for one in page.complaints)
    page.complaints.clear()


def test_a_file_that_is_not_an_image_is_reported(page):
    page.set_input_files(
        "#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    expect(page.locator("#lead")).to_contain_text("no picture")
    assert page.is_visible("#drop")


def test_several_samples_are_shown_to_choose_from(browser, serving, imaginative, make):
    with serving(imaginative, HttpConfig()) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        box = load(page, photograph(make))
        stroke(page, box, [(0.3, 0.5), (0.7, 0.5)])
        page.fill("#count", "3")
        fill(page)
        assert page.locator("#samples button").count() == 3
        first = downloaded(page)
        page.click("#samples button:nth-child(3)")
        assert (downloaded(page) != first).any()


def test_a_key_is_asked_for_where_the_service_wants_one(browser, serving, replica, make):
    secret, key = new_key("anna", 1000)
    config = HttpConfig(keys=(key,))
    with serving(replica, config) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("#keyed:not([hidden])", state="attached")
        box = load(page, photograph(make))
        stroke(page, box, [(0.4, 0.5), (0.6, 0.5)])
        page.fill("#key", secret)
        page.press("#key", "Tab")
        expect(page.locator("#model option")).to_have_count(1)
        fill(page)
        assert page.locator("#samples button").count() == 0


def test_turned_photographs_are_painted_upright(page, make):
    pixels = make.photograph(60, 100)
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees.
    file = {
        "name": "turned.jpg",
        "mimeType": "image/jpeg",
        "buffer": make.file(pixels, "jpeg", quality=95, exif=exif),
    }
    box = load(page, file)
    assert box["height"] > box["width"]
    stroke(page, box, [(0.5, 0.2), (0.5, 0.2)])
    fill(page)
    assert downloaded(page).shape[:2] == (100, 60)
