"""Mask generators, one function per recipe: [H, W] uint8, 1 in the hole.

Sizes that papers give in pixels are theirs at 256 x 256 and scale with the shorter side.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from infill.pipeline.images import ByteHole
from infill.pipeline.masks.config import MaskConfig
from infill.pipeline.masks.exact import resize_nearest, rotate
from infill.pipeline.masks.mask_files import generate_file, generate_silhouette

Generate = Callable[[MaskConfig, np.random.Generator, int, int], ByteHole]

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789    "


def empty(height: int, width: int) -> ByteHole:
    """Return a frame without a hole."""
    return np.zeros((height, width), np.uint8)


def whole(random: np.random.Generator, low: int, high: int) -> int:
    """Return an integer, uniform over ``low`` to ``high`` inclusive."""
    return low + int(random.random() * (high - low + 1))


def generate_centre(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide the centre, half as high and wide as the frame: 128 x 128 of 256 x 256."""
    del config, random
    hole = empty(height, width)
    top, left = (height - height // 2) // 2, (width - width // 2) // 2
    hole[top : top + max(1, height // 2), left : left + max(1, width // 2)] = 1
    return hole


def generate_box(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide a rectangle anywhere, its sides uniform shares of the frame's (DeepGIN, 30-70 %)."""
    shares = config.min_box_side, config.max_box_side
    tall, wide = (
        whole(random, max(1, int(shares[0] * side)), max(1, int(shares[1] * side)))
        for side in (height, width)
    )
    return _rectangle(random, height, width, tall, wide)


def generate_box_of(
    config: MaskConfig, random: np.random.Generator, height: int, width: int, pixels: int
) -> ByteHole:
    """Hide a rectangle of about ``pixels`` pixels, at most twice as long as wide if it fits."""
    del config
    aspect = 2.0 ** (2 * random.random() - 1)
    shortest = math.ceil(pixels / width)
    tall = min(max(round(math.sqrt(pixels * aspect)), shortest, 1), height)
    wide = min(max(1, round(pixels / tall)), width)
    return _rectangle(random, height, width, tall, wide)


def generate_square(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide a half-size square anywhere, shrunk on both sides by a random delta (DeepFill v1)."""
    tall, wide = max(1, height // 2), max(1, width // 2)
    top, left = whole(random, 0, height - tall), whole(random, 0, width - wide)
    shrink_rows = whole(random, 0, int(config.max_shrink * height))
    shrink_columns = whole(random, 0, int(config.max_shrink * width))
    hole = empty(height, width)
    rows = slice(top + shrink_rows, top + tall - shrink_rows)
    hole[rows, left + shrink_columns : left + wide - shrink_columns] = 1
    return hole


def _rectangle(
    random: np.random.Generator, height: int, width: int, tall: int, wide: int
) -> ByteHole:
    top, left = whole(random, 0, height - tall), whole(random, 0, width - wide)
    hole = empty(height, width)
    hole[top : top + tall, left : left + wide] = 1
    return hole


def generate_blocks(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide PEN-Net's block: a half-size square, flipped, tilted by 0-45 degrees, grown by 1 px.

    Rotation enlarges the canvas, on which the block grows; it is then resized back, so that the
    block shrinks: 13-26 % of the frame, as in the released code.
    """
    del config
    hole = _rectangle(random, height, width, max(1, height // 2), max(1, width // 2))
    if random.random() < 0.5:
        hole = hole[:, ::-1]
    tilted = cv2.dilate(rotate(hole, whole(random, 0, 45)), np.ones((3, 3), np.uint8))
    return resize_nearest(tilted, height, width)


def generate_strokes(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide free-form strokes with DeepFill v2's parameters: 16 % of the frame on average.

    One to three zigzags of 4 to 11 segments, 12 to 40 px wide at 256 px. Lines this thick have
    round ends, so the discs that the paper sets at the joints are already there.
    """
    del config
    hole = empty(height, width)
    unit = min(height, width) / 256
    for _ in range(whole(random, 1, 3)):
        _stroke(hole, random, whole(random, 4, 11), (12, 40), unit)
    return hole


def _stroke(
    hole: ByteHole,
    random: np.random.Generator,
    segments: int,
    thickness: tuple[int, int],
    unit: float,
) -> None:
    """Add a zigzag of DeepFill v2; its thickness is uniform between two numbers of units."""
    height, width = hole.shape
    mean_length = math.hypot(height, width) / 8
    lowest = 2 * math.pi / 5 - random.random() * 2 * math.pi / 15
    highest = 2 * math.pi / 5 + random.random() * 2 * math.pi / 15
    angles = lowest + (highest - lowest) * random.random(segments)
    angles[::2] = 2 * math.pi - angles[::2]
    lengths = mean_length * (1 + random.standard_normal(segments) / 2)
    np.clip(lengths, 0, 2 * mean_length, out=lengths)
    thin, thick = thickness
    wide = max(1, int(unit * (thin + (thick - thin) * random.random())))
    start = random.random(2) * (width, height)
    _zigzag(hole, start, angles, lengths, wide)


def _zigzag(
    hole: ByteHole,
    start: NDArray[np.float64],
    angles: NDArray[np.float64],
    lengths: NDArray[np.float64],
    thickness: int,
) -> None:
    height, width = hole.shape
    x, y = float(start[0]), float(start[1])
    points = [(int(x), int(y))]
    for angle, length in zip(angles.tolist(), lengths.tolist(), strict=True):
        x = min(max(x + length * math.cos(angle), 0.0), width - 1.0)
        y = min(max(y + length * math.sin(angle), 0.0), height - 1.0)
        points.append((int(x), int(y)))
    cv2.polylines(hole, [np.array(points, np.int32)], False, 1, thickness)


def generate_long_strokes(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide DeepGIN's free-form strokes: 15 to 23 of them, 40 % of 256 px on average.

    As in the released code they have 10 to 24 px in larger frames too, and so hide less of those:
    14 % at 512 px, 4 % at 1024 px. In smaller frames they shrink with the frame.
    """
    del config
    hole = empty(height, width)
    unit = min(1.0, min(height, width) / 256)
    for stroke in range(whole(random, 15, 23)):
        x, y = whole(random, 0, width - 1), whole(random, 0, height - 1)
        for _ in range(whole(random, 1, 5)):
            angle = 0.01 + whole(random, 0, 3)
            angle = 2 * math.pi - angle if stroke % 2 == 0 else angle
            length = unit * whole(random, 10, 69)
            thickness = max(1, round(unit * whole(random, 10, 24)))
            end = int(x + length * math.sin(angle)), int(y + length * math.cos(angle))
            cv2.line(hole, (x, y), end, 1, thickness)
            x, y = end
    return hole


def generate_wide_strokes(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide LaMa's wide strokes: one to six, 5 to 104 px wide and 10 to 209 px long at 256 px."""
    del config
    hole = empty(height, width)
    unit = min(height, width) / 256
    for stroke in range(whole(random, 1, 6)):
        x, y = whole(random, 0, width - 1), whole(random, 0, height - 1)
        for _ in range(whole(random, 1, 5)):
            angle = 0.01 + whole(random, 0, 3)
            angle = 2 * math.pi - angle if stroke % 2 == 0 else angle
            length = unit * whole(random, 10, 209)
            thickness = max(1, round(unit * whole(random, 5, 104)))
            to_x = min(max(int(x + length * math.sin(angle)), 0), width)
            to_y = min(max(int(y + length * math.cos(angle)), 0), height)
            cv2.line(hole, (x, y), (to_x, to_y), 1, thickness)
            x, y = to_x, to_y
    return hole


def generate_boxes(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide LaMa's boxes: one to four, sides of 30 to 150 px, 10 px from the edges, at 256 px."""
    del config
    hole = empty(height, width)
    unit = min(height, width) / 256
    margin = int(10 * unit)
    for _ in range(whole(random, 1, 4)):
        wide = min(max(1, round(unit * whole(random, 30, 150))), width - 2 * margin)
        tall = min(max(1, round(unit * whole(random, 30, 150))), height - 2 * margin)
        left = whole(random, margin, width - margin - wide)
        top = whole(random, margin, height - margin - tall)
        hole[top : top + tall, left : left + wide] = 1
    return hole


def generate_free_form(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide the free forms of Co-Mod-GAN, with which MI-GAN trains: boxes and strokes of any share.

    Up to nine boxes of less than half the sides, up to four of less than the sides, all partly
    outside, and up to 19 zigzags of 4 to 17 segments. As released these are 12 to 48 px wide in
    larger frames too; in smaller frames they shrink with the frame.
    """
    del config
    hole = empty(height, width)
    unit = min(1.0, min(height, width) / 256)
    for most, share in ((9, 2), (4, 1)):
        for _ in range(whole(random, 0, most)):
            tall, wide = (whole(random, 0, max(0, n // share - 1)) for n in (height, width))
            top, left = (
                whole(random, -(side // 2), whole_frame - side + side // 2 - 1)
                for side, whole_frame in ((tall, height), (wide, width))
            )
            hole[max(0, top) : max(0, top + tall), max(0, left) : max(0, left + wide)] = 1
    for _ in range(whole(random, 0, 19)):
        _stroke(hole, random, whole(random, 4, 17), (12, 48), unit)
    return hole


def generate_automaton(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide the stable state of a cellular automaton: noise under the majority rule (DeepGIN)."""
    del config
    scale = (1, 2, 4, 8)[whole(random, 0, 3)]
    rounds = whole(random, 2, 6)
    rows, columns = max(1, height // scale), max(1, width // scale)
    cells = (random.random((rows, columns)) < 0.5).astype(np.uint8)
    for _ in range(rounds):
        around = cv2.boxFilter(
            cells, cv2.CV_8U, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT
        )
        cells = (around > 4).astype(np.uint8)  # of nine cells, counting those outside as known
    hole: ByteHole = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
    if scale > 1:
        hole = cv2.dilate(hole, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return hole


def generate_irregular(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide overlapping thick lines, discs and ellipses, as in Liu et al.'s dataset."""
    del config
    hole = empty(height, width)
    unit = min(height, width) / 256
    for x, y, to_x, to_y, kind, size, turn in random.random((whole(random, 1, 8), 7)).tolist():
        start = int(width * x), int(height * y)
        if kind < 0.5:
            end = int(width * to_x), int(height * to_y)
            cv2.line(hole, start, end, 1, max(1, round(unit * (3 + 21 * size))))
        elif kind < 0.75:
            cv2.circle(hole, start, round(unit * (4 + 24 * size)), 1, cv2.FILLED)
        else:
            axes = round(unit * (6 + 34 * size)), round(unit * (4 + 20 * turn))
            cv2.ellipse(hole, start, axes, 180 * turn, 0, 360, 1, max(1, round(6 * unit)))
    return hole


def generate_outpaint(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide a border along one to four sides, each 1/16 to 3/8 of the frame deep."""
    del config
    hole = empty(height, width)
    sides = whole(random, 1, 15)  # one bit per side
    top, bottom, left, right = (
        max(1, int(side * (1 + 5 * random.random()) / 16)) * (sides >> bit & 1)
        for bit, side in enumerate((height, height, width, width))
    )
    hole[:top] = 1
    hole[height - bottom :] = 1
    hole[:, :left] = 1
    hole[:, width - right :] = 1
    return hole


def generate_half(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide the left, right, top or bottom half."""
    del config
    hole = empty(height, width)
    side = whole(random, 0, 3)
    if side == 0:
        hole[:, : width // 2] = 1
    elif side == 1:
        hole[:, width - width // 2 :] = 1
    elif side == 2:
        hole[: height // 2] = 1
    else:
        hole[height - height // 2 :] = 1
    return hole


def generate_grid(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide all but one pixel in every ``grid_stride`` each way: super-resolution as inpainting."""
    stride = config.grid_stride
    hole = np.ones((height, width), np.uint8)
    hole[whole(random, 0, stride - 1) :: stride, whole(random, 0, stride - 1) :: stride] = 0
    return hole


def generate_text(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide lines of random letters, as a caption or a watermark would."""
    del config
    hole = empty(height, width)
    unit = min(height, width) / 256
    for _ in range(whole(random, 1, 4)):
        length = whole(random, 6, 24)
        letters = "".join(LETTERS[i] for i in (random.random(length) * len(LETTERS)).astype(int))
        size = unit * (0.5 + 1.2 * random.random())
        origin = int(random.random() * width / 2), whole(random, height // 8, height - 1)
        thickness = max(1, round(unit * (1 + 3 * random.random())))
        cv2.putText(hole, letters, origin, cv2.FONT_HERSHEY_SIMPLEX, size, 1, thickness)
    return hole


def generate_scratches(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide long thin cracks, 1 to 4 px wide at 256 px, as on an old print."""
    del config
    hole = empty(height, width)
    unit = min(height, width) / 256
    for _ in range(whole(random, 3, 12)):
        bends = whole(random, 2, 8)
        course = np.linspace(random.random(2), random.random(2), bends)
        course += 0.03 * random.standard_normal((bends, 2))
        points = (course * (width, height)).astype(np.int32)
        thickness = max(1, round(unit * (1 + 3 * random.random())))
        cv2.polylines(hole, [points], False, 1, thickness)
    return hole


GENERATORS: dict[str, Generate] = {
    "centre": generate_centre,
    "box": generate_box,
    "square": generate_square,
    "blocks": generate_blocks,
    "strokes": generate_strokes,
    "long_strokes": generate_long_strokes,
    "wide_strokes": generate_wide_strokes,
    "boxes": generate_boxes,
    "free_form": generate_free_form,
    "automaton": generate_automaton,
    "irregular": generate_irregular,
    "outpaint": generate_outpaint,
    "half": generate_half,
    "grid": generate_grid,
    "text": generate_text,
    "scratches": generate_scratches,
    "files": generate_file,
    "silhouettes": generate_silhouette,
}
"""The generator of each recipe."""

JOINED = frozenset(
    [
        "strokes",
        "long_strokes",
        "wide_strokes",
        "boxes",
        "free_form",
        "irregular",
        "outpaint",
        "text",
        "scratches",
        "silhouettes",
    ]
)
"""Recipes whose holes, too small, are joined with another hole of the same recipe."""
