"""Requests of the page: refusals, samples, keys, several photographs, downloads, small screens."""

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from infill.pipeline.serving.http.auth import new_key
from infill.pipeline.serving.http.inpaint_service import HttpConfig

INPAINT = "**/v1/inpaint"
THUMB = "#photographs .thumb[aria-label='{}']"


def test_what_the_service_refuses_is_said_and_nothing_is_lost(editor, photo):
    editor.open(photo)
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    hole = editor.hole()
    expect(editor.page.locator("#model option")).to_have_count(1)  # It hides the seed.
    editor.page.evaluate("document.getElementById('seed-row').hidden = false")
    editor.page.fill("#seed", "1.5")
    editor.page.click("#fill")
    editor.wait_said("seed")
    expect(editor.page.locator("#message.wrong")).to_be_visible()
    assert (editor.hole() == hole).all()
    assert editor.page.is_enabled("#fill")
    assert any("40" in one for one in editor.complaints)
    editor.complaints.clear()


def test_a_file_that_is_no_picture_leaves_the_work_as_it_was(editor, photo, file_of):
    editor.open(photo)
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    hole = editor.hole()
    editor.page.set_input_files("#file", file_of("a.png", b"no picture"))
    editor.wait_said("a.png: no picture")
    assert editor.page.text_content("#name") == "photo.png"
    assert (editor.hole() == hole).all()


def test_several_samples_are_thumbnails_to_choose_from(
    browser, serving, imaginative, editing, photo
):
    with serving(imaginative, HttpConfig()) as url, editing(browser, url) as editor:
        editor.open(photo)
        editor.stroke((0.3, 0.5), (0.7, 0.5))
        editor.page.fill("#count", "3")
        editor.fill()
        expect(editor.page.locator("#samples button")).to_have_count(3)
        first = editor.result()
        editor.page.click("#samples button:nth-child(3)")
        expect(editor.page.locator("#samples button:nth-child(3)")).to_have_attribute(
            "aria-pressed", "true"
        )
        editor.settle()
        assert (editor.result() != first).any()


def test_a_model_of_one_result_offers_no_samples(editor, photo):
    editor.open(photo)
    expect(editor.page.locator("#model option")).to_have_count(1)
    assert editor.page.is_hidden("#samples-row")
    assert editor.page.is_hidden("#seed-row")


def test_a_key_is_asked_for_where_the_service_wants_one(browser, serving, replica, editing, photo):
    secret, key = new_key("anna", 1000)
    with (
        serving(replica, HttpConfig(keys=(key,))) as url,
        editing(browser, url) as editor,
    ):
        editor.page.wait_for_selector("#keyed:not([hidden])", state="attached")
        editor.open(photo)
        editor.page.fill("#key", secret)
        editor.page.press("#key", "Tab")
        expect(editor.page.locator("#model option")).to_have_count(1)
        editor.stroke((0.4, 0.5), (0.6, 0.5))
        editor.fill()
        assert any("401" in one for one in editor.complaints)  # of the list before the key
        editor.complaints.clear()


def test_turned_photographs_are_painted_upright(editor, make, file_of):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    data = make.file(make.photograph(60, 100), "jpeg", quality=95, exif=exif)
    editor.open(file_of("turned.jpg", data))
    editor.stroke((0.5, 0.2), (0.5, 0.2))
    editor.fill()
    name, result = editor.saved("#save")
    assert name == "turned-filled.jpg"
    assert result.startswith(b"\xff\xd8")
    assert editor.hole().shape == (100, 60)


def test_the_format_of_the_download_can_be_chosen(editor, photo):
    editor.open(photo)
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    editor.fill()
    assert editor.saved("#save")[0] == "photo-filled.png"
    editor.page.select_option("#format", "image/webp")
    name, data = editor.saved("#save")
    assert name == "photo-filled.webp"
    assert data[8:12] == b"WEBP"


@pytest.fixture
def held(editor):
    """Hold the page's next request of the service; return what lets it go."""
    routes = []
    editor.page.route(INPAINT, lambda route: routes.append(route))

    def let_go() -> None:
        while not routes:
            editor.page.wait_for_timeout(20)
        routes.pop().continue_()
        editor.page.unroute(INPAINT)

    return let_go


def test_a_result_goes_to_its_photograph_whichever_is_shown(editor, held, make, file_of):
    editor.open(file_of("one.png", make.file(make.photograph(90, 120))))
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    editor.page.click("#fill")
    expect(editor.page.locator("#cancel")).to_be_visible()
    editor.open(file_of("two.png", make.file(make.photograph(80, 100))))
    shown = editor.seen()
    held()
    expect(editor.page.locator("#photographs .state.filled")).to_have_count(1)
    assert (editor.seen() == shown).all()
    assert editor.page.is_disabled("#save")
    editor.page.click(THUMB.format("one.png"))
    expect(editor.page.locator("#name")).to_have_text("one.png")
    assert editor.saved("#save")[0] == "one-filled.png"
    assert editor.result().shape[:2] == (90, 120)


def test_a_fill_is_cancelled_and_leaves_the_hole(editor, held, photo):
    editor.open(photo)
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    hole = editor.hole()
    editor.page.click("#fill")
    editor.page.click("#cancel")
    expect(editor.page.locator("#fill")).to_be_enabled()
    assert (editor.hole() == hole).all()
    assert editor.page.is_disabled("#save")
    editor.page.unroute(INPAINT)
    editor.fill()


def test_several_photographs_are_filled_with_the_same_hole(editor, make, file_of):
    pictures = [file_of(f"p{n}.png", make.file(make.photograph(60, 80))) for n in range(3)]
    editor.open(*pictures)
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    hole = editor.hole()
    editor.page.click("#same-hole")
    editor.page.click("#fill-all")
    expect(editor.page.locator("#photographs .state.filled")).to_have_count(3)
    taken = []
    editor.page.on("download", lambda download: taken.append(download.suggested_filename))
    with editor.page.expect_event("download", lambda one: "p2" in one.suggested_filename):
        editor.page.click("#save-all")
    assert sorted(taken) == ["p0-filled.png", "p1-filled.png", "p2-filled.png"]
    assert hole.any()


BOXES = "all => all.map(one => one.getBoundingClientRect().toJSON())"


@pytest.mark.parametrize("width", [390, 1280, 1440])
def test_every_tool_is_in_reach_on_light_and_dark_screens(
    browser, address, editing, photo, width: int
):
    colours = {}
    for scheme in ("light", "dark"):
        screen = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
        with editing(browser, address, has_touch=width == 390, **screen) as editor:
            editor.open(photo)
            page = editor.page
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            boxes = page.locator("button:visible").evaluate_all(BOXES)
            assert len(boxes) > 10
            for box in boxes:
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width + 1
                if width == 390:
                    assert min(box["width"], box["height"]) >= 44, box
            if width == 390:  # the tools are at the thumb
                assert editor.bounds("#tools")["y"] > 400
                assert editor.bounds("#fill")["y"] > 600
            colours[scheme] = int(np.mean(editor.seen()[0, 0, :3]))
            before = page.text_content("#zoom")
            page.click("#zoom-in")
            expect(page.locator("#zoom")).not_to_have_text(before)
    assert colours["dark"] < 60 < 180 < colours["light"]


def test_photograph_lies_between_what_floats_over_a_phone_s_stage(
    browser, address, editing, make, file_of
):
    screen = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
    with editing(browser, address, **screen) as editor:
        editor.open(file_of("tall.png", make.file(make.photograph(900, 400))))
        _, top, _, height = editor.box()
        zoom, message = editor.bounds(".zoom"), editor.bounds("#message")
        assert zoom["y"] + zoom["height"] <= top
        assert top + height <= message["y"]
        expect(editor.page.locator("#said")).to_contain_text("Paint over what should go")
        editor.stroke((0.4, 0.5), (0.6, 0.5))
        expect(editor.page.locator("#message")).to_be_hidden()
        editor.fill()
        editor.compare()
        line = editor.bounds("#split")
        assert line["y"] == pytest.approx(top, abs=2)
        assert line["height"] == pytest.approx(height, abs=3)


@pytest.mark.parametrize("key", ["Escape", "c"])
def test_a_comparison_that_is_ended_before_its_original_is_decoded_does_not_come(
    editor, photo, key
):
    editor.open(photo)
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    editor.fill()
    button, line = editor.page.locator("#compare"), editor.page.locator("#split")
    with editor.slow_decoding():
        editor.press("c")
        expect(button).to_have_attribute("aria-pressed", "true")
        editor.press(key)
        expect(button).to_have_attribute("aria-pressed", "false")
    expect(line).to_be_hidden()
    editor.compare()
    expect(button).to_have_attribute("aria-pressed", "true")


def test_a_comparison_whose_original_cannot_be_read_says_so(editor, photo):
    editor.open(photo)
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    editor.fill()
    editor.page.evaluate("() => { createImageBitmap = () => Promise.reject(new Error('gone')); }")
    editor.page.click("#compare")
    editor.wait_said("cannot be read any more")
    expect(editor.page.locator("#compare")).to_have_attribute("aria-pressed", "false")


def test_nothing_is_painted_while_undo_decodes_and_a_fill_waits_for_it(editor, photo):
    editor.open(photo)
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    hole = editor.hole()
    editor.fill()
    with editor.slow_decoding():
        editor.press("Control+z")
        editor.stroke((0.4, 0.6), (0.6, 0.6))
        editor.press("f")
    editor.wait_filled()
    editor.press("Control+z")
    expect(editor.page.locator("#fill")).to_be_enabled()
    assert (editor.hole() == hole).all()


def test_a_photograph_appears_when_it_is_decoded_whatever_changes_meanwhile(editor, make, file_of):
    editor.open(*[file_of(f"p{n}.png", make.file(make.photograph(60, 80))) for n in range(3)])
    expect(editor.page.locator("#photographs li")).to_have_count(3)
    shown = editor.seen()
    editor.page.click(THUMB.format("p1.png"))
    expect(editor.page.locator("#name")).to_have_text("p1.png")
    with editor.slow_decoding():
        editor.page.click(THUMB.format("p0.png"))
        editor.page.click("[aria-label='Remove p2.png']")
        expect(editor.page.locator("#photographs li")).to_have_count(2)
    expect(editor.page.locator("#name")).to_have_text("p0.png")
    assert (editor.seen() == shown).all()


FROM_OUTSIDE = """([kind, name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  const values = {bubbles: true, cancelable: true};
  document.dispatchEvent(kind === "drop"
    ? new DragEvent("drop", {...values, dataTransfer: data})
    : new ClipboardEvent("paste", {...values, clipboardData: data}));
}"""


def test_photographs_are_dropped_and_pasted(editor, photo):
    for kind, name in (("drop", "dropped.png"), ("paste", "pasted.png")):
        editor.page.evaluate(FROM_OUTSIDE, [kind, name, list(photo["buffer"])])
        expect(editor.page.locator("#name")).to_have_text(name)
    expect(editor.page.locator("#photographs li")).to_have_count(2)


def test_a_busy_service_is_asked_again_and_says_so(editor, photo):
    tries = []

    def refuse_once(route) -> None:
        tries.append(route)
        if len(tries) > 1:
            route.continue_()
            return
        refusal = {"error": {"code": "busy", "message": "9 requests are waiting already."}}
        route.fulfill(status=503, json=refusal, headers={"Retry-After": "1"})

    editor.page.route(INPAINT, refuse_once)
    editor.open(photo)
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    editor.page.click("#fill")
    editor.wait_said("9 requests are waiting already. Trying again in 1 s.")
    editor.wait_filled()
    assert len(tries) == 2
    editor.complaints.clear()


def test_a_jpeg_keeps_its_exif_upright_and_without_its_preview(editor, make, file_of):
    exif = Image.Exif()
    exif[0x0110] = "A camera"
    exif[0x0112] = 6  # To be turned by 90 degrees.
    exif[0x011A], exif[0x011B] = 300.0, 150.0
    camera = exif.get_ifd(0x8769)
    camera[0xA002], camera[0xA003], camera[0xA20F] = 100, 60, 2000.0
    data = make.file(make.photograph(60, 100), "jpeg", quality=95, exif=exif)
    editor.open(file_of("turned.jpg", data))
    editor.stroke((0.5, 0.2), (0.5, 0.2))
    editor.fill()
    name, saved = editor.saved("#save")
    with Image.open(io.BytesIO(saved)) as picture:
        assert (name, picture.format, picture.size) == ("turned-filled.jpg", "JPEG", (60, 100))
        kept = picture.getexif()
        assert (kept[0x0110], kept[0x0112]) == ("A camera", 1)
        assert (kept[0x011A], kept[0x011B]) == (150, 300)
        assert dict(kept.get_ifd(0x8769)) == {0xA002: 60, 0xA003: 100, 0xA20E: 2000}


def test_colours_follow_the_system_until_they_are_chosen(browser, address, editing):
    with editing(browser, address, color_scheme="dark") as editor:
        shade = expect(editor.page.locator("body"))
        shade.to_have_css("background-color", "rgb(23, 24, 29)")
        editor.page.click("#theme")
        shade.to_have_css("background-color", "rgb(255, 255, 255)")
        editor.page.reload()
        shade.to_have_css("background-color", "rgb(255, 255, 255)")
