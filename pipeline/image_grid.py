"""Grids of sample images with titles and captions, as one PNG."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from infill.pipeline.images import ByteHole, Pixels, composite, encode_png

SAMPLE_TITLES = ("image", "masked input", "prediction", "composite")
"""The columns of :func:`sample_grid`."""
HOLE_COLOUR = (250, 160, 224)
"""Colour of holes: light magenta, which is rare in photographs."""

_PAPER, _INK, _FAINT_INK = (255, 255, 255), (24, 24, 27), (98, 98, 105)
_GUTTER_PX = 6
_MARGIN_PX = 12
_LEAST_CELL_PX = 128  # Narrower cells have no readable title; they are enlarged by integer factors.


def masked_view(image: Pixels, hole: ByteHole) -> Pixels:
    """Return the image with its hole in light magenta.

    Args:
        image: uint8 [..., H, W, 3].
        hole: uint8 [..., H, W], 1 where missing.
    """
    return np.where(hole[..., None] != 0, np.array(HOLE_COLOUR, np.uint8), image)


def sample_grid(
    images: Pixels, holes: ByteHole, predictions: Pixels, captions: Sequence[str] = ()
) -> bytes:
    """Return a grid with a row per sample: image, masked input, prediction, composite.

    Args:
        images: uint8 [B, H, W, 3].
        holes: uint8 [B, H, W], 1 where missing.
        predictions: uint8 [B, H, W, 3].
        captions: a line under each row; none if empty.

    Returns:
        A PNG file.
    """
    rows = [
        [image, masked_view(image, hole), prediction, composite(prediction, image, hole)]
        for image, hole, prediction in zip(images, holes, predictions, strict=True)
    ]
    return grid(rows, SAMPLE_TITLES, captions)


def grid(
    rows: Sequence[Sequence[Pixels]], titles: Sequence[str] = (), captions: Sequence[str] = ()
) -> bytes:
    """Return :func:`make_grid` as a PNG file; the same bytes for the same input."""
    return encode_png(make_grid(rows, titles, captions))


def make_grid(
    rows: Sequence[Sequence[Pixels]], titles: Sequence[str] = (), captions: Sequence[str] = ()
) -> Pixels:
    """Return rows of images with thin gutters, a title over each column, a caption under each row.

    Images narrower than 128 px are enlarged by an integer factor, pixel by pixel.

    Args:
        rows: uint8 [H, W, 3] images, all of one size; every row equally long.
        titles: one per column, or none.
        captions: one per row, or none.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: if there are no images, or sizes or numbers do not match.
    """
    height, width, columns = _measure(rows, titles, captions)
    factor = -(-_LEAST_CELL_PX // width)
    height, width = height * factor, width * factor
    size = min(max(width // 10, 12), 22)
    title_px = size + 10 if titles else 0
    caption_px = size + 8 if captions else 0
    row_px = height + caption_px + _GUTTER_PX
    sheet = Image.new(
        "RGB",
        (
            2 * _MARGIN_PX + columns * (width + _GUTTER_PX) - _GUTTER_PX,
            2 * _MARGIN_PX + title_px + len(rows) * row_px - _GUTTER_PX,
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        x = _MARGIN_PX + column * (width + _GUTTER_PX)
        _write(draw, (x, _MARGIN_PX), title, width, size, _INK)
    for line, row in enumerate(rows):
        y = _MARGIN_PX + title_px + line * row_px
        for column, cell in enumerate(row):
            enlarged = cell.repeat(factor, axis=0).repeat(factor, axis=1)
            sheet.paste(Image.fromarray(enlarged), (_MARGIN_PX + column * (width + _GUTTER_PX), y))
        if captions:
            max_width = sheet.width - 2 * _MARGIN_PX
            _write(
                draw, (_MARGIN_PX, y + height + 2), captions[line], max_width, size - 1, _FAINT_INK
            )
    return np.asarray(sheet)


def fit(pixels: Pixels, side: int) -> Pixels:
    """Return an image of any shape, resized to fit on a white square."""
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    square = Image.new("RGB", (side, side), _PAPER)
    at = ((side - width) // 2, (side - height) // 2)
    square.paste(image.resize((width, height), Image.Resampling.LANCZOS), at)
    return np.asarray(square)


def shrink(pixels: Pixels, longest_px: int) -> Pixels:
    """Return an image, reduced if a side is longer than ``longest_px``."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _measure(
    rows: Sequence[Sequence[Pixels]], titles: Sequence[str], captions: Sequence[str]
) -> tuple[int, int, int]:
    """Check a grid; return height, width and the number of columns."""
    if not len(rows) or not len(rows[0]):  # An array of images has no truth value.
        raise ValueError("a grid needs at least one image")
    shapes = {cell.shape for row in rows for cell in row}
    if len(shapes) > 1:
        raise ValueError(f"a grid's images must be of one size, these are of {sorted(shapes)}")
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"a grid's rows must be equally long, these hold {sorted(lengths)}")
    columns = lengths.pop()
    if titles and len(titles) != columns:
        raise ValueError(f"a grid of {columns} columns cannot carry {len(titles)} titles")
    if captions and len(captions) != len(rows):
        raise ValueError(f"a grid of {len(rows)} rows cannot carry {len(captions)} captions")
    height, width, _ = shapes.pop()
    return height, width, columns


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    max_width: int,
    size: int,
    colour: tuple[int, int, int],
) -> None:
    """Write one line: smaller if it does not fit, and cut with dots if even that is too long."""
    for smaller in range(size, 9, -1):
        font = ImageFont.load_default(smaller)
        if draw.textlength(text, font) <= max_width:
            break
    else:
        while text and draw.textlength(text + "...", font) > max_width:
            text = text[:-1]
        text += "..."
    draw.text(at, text, colour, font)
