"""The page as a person sees and handles it, for its tests."""

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from playwright.sync_api import Page, expect

from infill.pipeline.serving.http.inpaint_service import HttpConfig

WAIT_MS = 300_000
expect.set_options(timeout=WAIT_MS)  # Its five seconds are too few on a busy machine.
_SEEN = """id => {
  const c = document.getElementById(id);
  return [c.toDataURL(), c.width, c.height];
}"""

_LISTEN = """() => {
  window.heard = [];
  addEventListener("DOMContentLoaded", () => {
    const said = document.getElementById("said");
    const note = () => said && window.heard.push(said.textContent);
    const all = {childList: true, characterData: true, subtree: true};
    if (said) new MutationObserver(note).observe(said, all);
  });
}"""
"""Keeps what the page says: a notice is gone after some seconds, however busy the machine is."""
_HOLD = """() => {
  const decode = window.createImageBitmap, held = [];
  let letGo;
  const gate = new Promise(open => { letGo = open; });
  window.createImageBitmap = (...values) => {
    const bitmap = gate.then(() => decode(...values));
    held.push(bitmap);
    return bitmap;
  };
  window.letDecode = () => {
    window.createImageBitmap = decode;
    letGo();
    return Promise.allSettled(held).then(() => null);
  };
}"""


def browser_file(name: str, data: bytes) -> dict[str, Any]:
    """Return a file as a browser is given it."""
    ending = name.rpartition(".")[2].replace("jpg", "jpeg")
    return {"name": name, "mimeType": f"image/{ending}", "buffer": data}


def decoded(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


class Editor:
    """Acts and looks: all coordinates are shares of the photograph's width and height."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []

    def open(self, *files: dict[str, Any]) -> None:
        """Choose files, and wait until the first of them is shown."""
        self.page.set_input_files("#file", files)
        expect(self.page.locator("#name")).to_have_text(files[0]["name"])
        with Image.open(io.BytesIO(files[0]["buffer"])) as opened:
            width, height = ImageOps.exif_transpose(opened).size
        expect(self.page.locator("#dimensions")).to_have_text(f"{width} × {height} px")
        self.settle()

    def settle(self) -> None:
        """Wait until what has changed is drawn."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def seen(self, canvas: str = "picture") -> NDArray[np.uint8]:
        """Return the pixels of a canvas: the picture or the hole over it."""
        self.settle()
        url, _, _ = self.page.evaluate(_SEEN, canvas)
        return decoded(base64.b64decode(url.partition(",")[2]))

    def box(self) -> tuple[float, float, float, float]:
        """Return where the photograph is in the window: x, y, width, height."""
        seen = self.seen()[..., :3].astype(int)
        rows, columns = np.nonzero(np.abs(seen - seen[0, 0]).max(axis=-1) > 8)
        stage = self.bounds("#stage")
        left, top = int(columns.min()), int(rows.min())
        width, height = int(columns.max()) + 1 - left, int(rows.max()) + 1 - top
        return stage["x"] + left, stage["y"] + top, width, height

    def bounds(self, selector: str) -> dict[str, float]:
        """Return where an element is in the window, as soon as it is visible."""
        expect(self.page.locator(selector)).to_be_visible()
        self.settle()
        found = self.page.locator(selector).bounding_box()
        assert found, f"{selector} is hidden again"
        return dict(found)

    def compare(self) -> None:
        """Press the button, and wait until the original is decoded and the line is there."""
        self.page.click("#compare")
        expect(self.page.locator("#split")).to_be_visible()

    @contextmanager
    def slow_decoding(self) -> Iterator[None]:
        """Let the page wait for every picture that it decodes, until the block ends."""
        self.page.evaluate(_HOLD)
        yield
        self.page.evaluate("() => window.letDecode()")
        self.settle()

    def wait_said(self, text: str) -> None:
        """Wait until the page has said a text since the last call, also if it is gone by now."""
        self.page.wait_for_function("text => heard.some(one => one.includes(text))", arg=text)
        self.page.evaluate("() => { window.heard.length = 0; }")

    def wheel(self, down: float) -> None:
        """Turn the wheel, and wait until the zoom has changed."""
        before = self.page.locator("#zoom").inner_text()
        self.page.mouse.wheel(0, down)
        expect(self.page.locator("#zoom")).not_to_have_text(before)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the photograph is in the window."""
        left, top, width, height = self.box()
        return left + x * width, top + y * height

    def stroke(self, *points: tuple[float, float]) -> None:
        """Pull the mouse over points of the photograph."""
        left, top, width, height = self.box()
        places = [(left + x * width, top + y * height) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=5)
        self.page.mouse.up()

    def hole(self) -> NDArray[np.uint8]:
        """Return the levels of the hole, as the page saves them; all 0 if there is none."""
        if self.page.is_disabled("#mask-save"):
            text = self.page.text_content("#dimensions") or ""
            width, height = (int(word) for word in text.removesuffix(" px").split(" × "))
            return np.zeros((height, width), np.uint8)
        levels = decoded(self.saved("#mask-save")[1])
        return levels if levels.ndim == 2 else levels[..., 0]

    def saved(self, button: str) -> tuple[str, bytes]:
        """Press a button that saves a file; return its name and bytes."""
        with self.page.expect_download() as waiting:
            self.page.click(button)
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()

    def fill(self) -> None:
        self.page.click("#fill")
        self.wait_filled()

    def wait_filled(self) -> None:
        expect(self.page.locator("#said")).to_contain_text(" filled ")

    def result(self) -> NDArray[np.uint8]:
        """Return the pixels of the picture that is downloaded."""
        return decoded(self.saved("#save")[1])

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def states(self) -> Sequence[str]:
        """Return what the row of photographs says of each."""
        return self.page.locator("#photographs .state").all_text_contents()


@pytest.fixture(scope="session")
def file_of() -> Callable[[str, bytes], dict[str, Any]]:
    """Return a function of a name and bytes: a file as a browser is given it."""
    return browser_file


@pytest.fixture(scope="session")
def pixels_of() -> Callable[[bytes], NDArray[np.uint8]]:
    """Return a function that decodes an image file."""
    return decoded


@pytest.fixture(scope="session")
def editing() -> Callable[..., AbstractContextManager[Editor]]:
    """Return a context: the page of an address, in a browser; options are Playwright's."""
    return opened_page


@pytest.fixture
def address(serving, replica) -> Iterator[str]:
    """Serve one model that generates one result."""
    with serving(replica, HttpConfig()) as url:
        yield url


@pytest.fixture
def editor(browser, address) -> Iterator[Editor]:
    """Open the page."""
    with opened_page(browser, address, has_touch=True) as editor:
        yield editor


@pytest.fixture
def photo(make) -> dict[str, Any]:
    """Return a small photograph as a file: 90 rows of 120 pixels."""
    return browser_file("photo.png", make.file(make.photograph(90, 120)))


@contextmanager
def opened_page(browser: Any, address: str, **options: Any) -> Iterator[Editor]:
    """Open the page; whatever it requests of others, or complains of, fails the test."""
    with browser.new_context(accept_downloads=True, **options) as context:
        context.set_default_timeout(WAIT_MS)
        context.add_init_script(f"({_LISTEN})()")
        page = context.new_page()
        editor, elsewhere = Editor(page), []
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "blob:", "data:"))
                else elsewhere.append(request.url)
            ),
        )
        page.on("pageerror", lambda error: editor.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: editor.complaints.append(said.text) if said.type == "error" else None,
        )
        page.goto(address)
        expect(page.locator("#name")).to_have_text("example.jpg")
        editor.settle()
        yield editor
        assert not elsewhere
        assert not editor.complaints
