"""The page, as a person paints with it: a real Chromium, over real HTTP."""

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from infill.pipeline.images import read_mask


def test_page_and_reference_are_not_cut(address, require_fit):
    require_fit(address)
    require_fit(f"{address}/docs")


def test_an_example_is_ready_to_be_filled(editor):
    editor.wait_said("An example: press Fill")
    assert (editor.hole() > 0).sum() > 1000
    editor.fill()
    assert editor.result().shape == (300, 451, 3)


def test_a_hole_is_painted_filled_compared_and_downloaded(editor, photo, pixels_of):
    editor.open(photo)
    assert editor.page.is_disabled("#fill")
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    hole = editor.hole() > 0
    editor.fill()
    assert "spn@1 filled" in editor.page.text_content("#said")
    name, data = editor.saved("#save")
    assert name == "photo-filled.png"
    before, after = pixels_of(photo["buffer"]), pixels_of(data)
    changed = (before != after).any(axis=-1)
    assert changed[45, 60]
    assert not changed[~hole].any()
    filled = editor.seen()
    editor.compare()
    compared = editor.seen()
    middle = compared.shape[1] // 2
    assert (compared[:, : middle - 1] != filled[:, : middle - 1]).any()
    assert (compared[:, middle + 1 :] == filled[:, middle + 1 :]).all()
    editor.press(*["ArrowRight"] * 10)
    expect(editor.page.locator("#split-grip")).to_have_attribute("aria-valuenow", "100")
    assert (editor.seen() != filled).any()
    editor.press("Escape")
    assert (editor.seen() == filled).all()


def test_undo_and_redo_pass_over_strokes_and_fills(editor, photo):
    editor.open(photo)
    editor.stroke((0.2, 0.3), (0.8, 0.3))
    one = editor.hole()
    editor.stroke((0.2, 0.7), (0.8, 0.7))
    both = editor.hole()
    assert both.sum() > 1.8 * one.sum() > 0
    painted = editor.seen()
    editor.fill()
    filled = editor.seen()
    assert (filled != painted).any()
    assert not editor.hole().any()
    editor.press("Control+z")
    editor.page.wait_for_selector("#fill:enabled")
    assert (editor.hole() == both).all()
    assert (editor.seen() == painted).all()
    editor.press("Control+z")
    assert (editor.hole() == one).all()
    editor.press("Control+Shift+z")
    assert (editor.hole() == both).all()
    editor.press("Control+y")
    editor.page.wait_for_selector("#save:enabled")
    assert (editor.seen() == filled).all()
    assert editor.page.is_disabled("#redo")
    editor.page.click("#undo")
    editor.page.wait_for_selector("#fill:enabled")
    editor.stroke((0.1, 0.1), (0.1, 0.1))
    assert editor.page.is_disabled("#redo")


def test_the_result_is_filled_again(editor, photo):
    editor.open(photo)
    editor.stroke((0.4, 0.5), (0.6, 0.5))
    editor.fill()
    first = editor.result()
    editor.stroke((0.2, 0.2), (0.3, 0.2))
    assert "filled" not in editor.page.text_content("#said")
    editor.fill()
    changed = (first != editor.result()).any(axis=-1)
    assert changed[18, 30]
    assert not changed[45, 60]


def test_eraser_size_and_hardness_shape_the_stroke(editor, photo, pixels_of):
    editor.open(photo)
    editor.page.locator("#size").fill("40")
    editor.stroke((0.5, 0.5), (0.5, 0.5))
    small = editor.hole()
    editor.press("]", "]", "]", "]", "]", "]", "]", "]")
    editor.stroke((0.5, 0.5), (0.5, 0.5))
    large = editor.hole()
    assert large.sum() > 3 * small.sum()
    assert set(np.unique(large)) == {0, 255}
    editor.press("e")
    editor.stroke((0.55, 0.1), (0.55, 0.5))
    erased = editor.hole()
    assert erased[45, 60] == 0
    assert erased.any()
    editor.page.click("#clear")
    assert editor.page.is_disabled("#fill")
    editor.press("b")
    editor.page.locator("#hardness").fill("0")
    editor.stroke((0.5, 0.5), (0.5, 0.5))
    soft = editor.hole()
    assert len(np.unique(soft)) > 5
    editor.fill()
    before, after = pixels_of(photo["buffer"]).astype(int), editor.result()[..., :3].astype(int)
    changed = np.abs(before - after).max(axis=-1)
    assert not changed[soft == 0].any()
    assert changed[soft > 200].max() > 0
    assert changed[(soft > 0) & (soft < 2)].max(initial=0) <= 2


def test_wheel_space_and_buttons_move_the_view(editor, photo):
    editor.open(photo)
    page, (x, y, width, _) = editor.page, editor.box()
    spot = editor.place(0.25, 0.5)
    page.mouse.move(*spot)
    editor.wheel(300)
    _, _, smaller, _ = editor.box()
    assert smaller < 0.8 * width
    assert editor.place(0.25, 0.5) == pytest.approx(spot, abs=3)
    page.keyboard.down(" ")
    page.mouse.down()
    page.mouse.move(spot[0] + 40, spot[1] + 30)
    page.mouse.up()
    page.keyboard.up(" ")
    assert editor.place(0.25, 0.5) == pytest.approx((spot[0] + 40, spot[1] + 30), abs=3)
    assert not editor.hole().any()
    page.click("#zoom")
    assert editor.box()[2] == 120
    assert page.text_content("#zoom") == "100 %"
    editor.stroke((0.1, 0.9), (0.1, 0.9))
    rows, columns = np.nonzero(editor.hole())
    assert (rows.mean(), columns.mean()) == pytest.approx((80.5, 11.5), abs=1.5)
    page.click("#fit")
    assert editor.box()[:3] == pytest.approx((x, y, width), abs=1)


COUNT = """() => {
  window.drawn = {pictures: 0, pixels: 0};
  const {drawImage, putImageData} = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.drawImage = function (...values) {
    window.drawn.pictures++;
    return drawImage.apply(this, values);
  };
  CanvasRenderingContext2D.prototype.putImageData = function (data, ...rest) {
    window.drawn.pixels = Math.max(window.drawn.pixels, data.width * data.height);
    return putImageData.call(this, data, ...rest);
  };
}"""


def test_a_move_on_12_megapixels_draws_only_what_it_changed(editor, file_of):
    file = io.BytesIO()
    Image.new("RGB", (4000, 3000), (60, 120, 180)).save(file, "png")
    editor.open(file_of("large.png", file.getvalue()))
    stage = editor.seen("hole")
    editor.page.evaluate(COUNT)
    editor.stroke((0.2, 0.2), (0.4, 0.4), (0.6, 0.3))
    editor.settle()
    drawn = editor.page.evaluate("() => window.drawn")
    assert drawn["pictures"] == 0
    assert 0 < drawn["pixels"] < stage.shape[0] * stage.shape[1] / 15
    tint = editor.seen("hole")
    assert tint[..., 3].max() > 0
    assert 0 < np.median(tint[..., 3][tint[..., 3] > 0]) < 200, "strokes are see-through"


def test_rectangle_lasso_and_polygon_select_areas(editor, photo):
    editor.open(photo)
    editor.press("r")
    editor.stroke((0.25, 0.2), (0.75, 0.6))
    expected = np.zeros((90, 120), bool)
    expected[18:54, 30:90] = True
    assert ((editor.hole() > 0) != expected).mean() < 0.01
    editor.page.click("#subtract")
    editor.stroke((0.5, 0.0), (1.0, 1.0))
    expected[:, 60:] = False
    assert ((editor.hole() > 0) != expected).mean() < 0.01
    editor.page.click("#clear")
    editor.page.click("#add")
    editor.press("l")
    editor.stroke((0.1, 0.1), (0.5, 0.1), (0.5, 0.5), (0.1, 0.5))
    assert (editor.hole() > 0).mean() == pytest.approx(0.16, abs=0.02)
    editor.page.click("#clear")
    editor.press("p")
    for corner in ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9)):
        editor.page.mouse.click(*editor.place(*corner))
    assert not editor.hole().any()
    editor.page.focus("#hole")
    editor.press("Enter")
    assert (editor.hole() > 0).mean() == pytest.approx(0.32, abs=0.03)
    editor.press("Control+z")
    assert not editor.hole().any()


def test_masks_are_loaded_inverted_grown_feathered_and_saved(editor, photo, make, file_of):
    editor.open(photo)
    loaded = np.zeros((90, 120), np.uint8)
    loaded[30:50, 40:70] = 255
    mask = file_of("mask.png", make.file(loaded))
    editor.page.set_input_files("#mask-file", mask)
    editor.page.wait_for_selector("#fill:enabled")
    assert (editor.hole() == loaded).all()
    assert editor.saved("#mask-save")[0] == "photo-mask.png"
    editor.page.fill("#grow-px", "5")
    editor.page.click("#grow")
    rows, columns = np.mgrid[:90, :120]
    down = np.maximum(0, np.maximum(30 - rows, rows - 49))
    across = np.maximum(0, np.maximum(40 - columns, columns - 69))
    assert ((editor.hole() > 0) == (down**2 + across**2 <= 25)).all()
    editor.press("Control+z")
    editor.page.fill("#feather-px", "6")
    editor.page.click("#feather")
    soft = editor.hole()
    assert (soft[loaded > 0] == 255).all()
    assert (np.diff(soft[40, 70:78].astype(int)) <= 0).all()
    assert 0 < soft[40, 73] < 255
    assert not soft[down + across > 20].any()
    editor.press("Control+z")
    editor.page.click("#invert")
    assert (editor.hole() == 255 - loaded).all()
    wrong = file_of("wrong.png", make.file(loaded[:50]))
    editor.page.set_input_files("#mask-file", wrong)
    editor.wait_said("wrong.png has 120 × 50 px")
    assert (editor.hole() == 255 - loaded).all()


def layers(make) -> dict[str, bytes]:
    """Masks as drawing programs write them; where nothing is painted, colours mean nothing."""
    where = np.zeros((90, 120), bool)
    where[30:50, 40:70] = True
    clear = np.zeros((90, 120, 4), np.uint8)
    dark = clear.copy()
    dark[where] = (90, 10, 10, 255)
    white = np.full_like(clear, 255)
    white[..., 3] = np.where(where, 255, 0)
    erased = np.dstack([make.photograph(90, 120, seed=3), np.where(where, 0, 255).astype(np.uint8)])
    soft = make.file(np.where(where, 200, 90).astype(np.uint8), "jpeg")
    files = {name: make.file(one) for name, one in {"dark": dark, "white": white}.items()}
    return {**files, "erased": make.file(erased), "grey": soft}


def test_mask_files_are_read_by_the_service_s_rule(editor, photo, make, file_of):
    editor.open(photo)
    for name, data in layers(make).items():
        expected = read_mask(data)
        assert 600 <= expected.sum() <= 640, name
        editor.page.set_input_files("#mask-file", file_of(f"{name}.png", data))
        editor.page.wait_for_selector("#fill:enabled")
        assert (editor.hole() == 255 * expected).all(), name
        editor.press("Control+z")
        assert not editor.hole().any()
    blank = file_of("blank.png", make.file(np.zeros((90, 120), np.uint8)))
    editor.page.set_input_files("#mask-file", blank)
    editor.wait_said("blank.png marks no hole")
    editor.complaints.clear()  # The browser reports the refusal.


def test_keys_alone_do_it(editor, photo):
    editor.open(photo)
    editor.page.focus("#hole")
    editor.press("ArrowLeft", "ArrowUp", " ", "]", "Shift+ArrowRight")
    assert (editor.hole() > 0).sum() > 50
    editor.press("e")
    assert editor.page.get_attribute("#tool-eraser", "aria-pressed") == "true"
    editor.press("b", "f")
    editor.wait_filled()
    assert editor.result().shape == (90, 120, 3)


def test_a_finger_paints_and_two_zoom(editor, photo):
    editor.open(photo)
    left, top, width, height = editor.box()
    x, y = left + width / 2, top + height / 2
    editor.page.touchscreen.tap(x, y)
    tapped = editor.hole()
    assert (tapped > 0).sum() > 50
    session = editor.page.context.new_cdp_session(editor.page)
    for kind, spread in (
        ("touchStart", 0),
        ("touchStart", 40),
        ("touchMove", 20),
        ("touchEnd", -1),
    ):
        fingers = [{"x": x - 60, "y": y, "id": 0}, {"x": x - 60 + 2 * spread, "y": y, "id": 1}]
        count = 0 if spread < 0 else 2 if spread else 1
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers[:count]})
    assert editor.box()[2] == pytest.approx(width / 2, abs=4)
    assert (editor.hole() == tapped).all()
