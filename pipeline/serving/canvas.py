"""How an image of any size meets the network, at a cost known in advance.

The network draws on a canvas whose sides come from a short list, so that requests of different
sizes share a batch. What lies on the canvas is

* the whole image, if it fits on the largest canvas;
* else a crop around the hole, grown to show its surroundings, if that fits;
* else the smallest such crop, made smaller; the prediction is enlarged again.

The composite is made at the image's own resolution, so only the hole is ever resampled. All of
this is arithmetic on arrays and knows nothing of requests.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Hole = NDArray[np.bool_]
Mode = Literal["auto", "crop", "resize"]
Kind = Literal["whole", "crop", "resize"]


@dataclass(frozen=True, kw_only=True)
class CanvasConfig:
    """The canvases there are, and how much surrounding a hole is given."""

    sides_px: tuple[int, ...] = (128, 256, 384, 512)
    """Heights and widths of a canvas, in ascending order; each pair is one shape of batches."""
    context: float = 2.0
    """A crop's side as a multiple of the hole's."""
    least_crop_px: int = 256
    """A crop is no smaller than this, where the image allows."""

    def __post_init__(self) -> None:
        if not self.sides_px or list(self.sides_px) != sorted(set(self.sides_px)):
            raise ValueError(f"sides_px must ascend, got {self.sides_px}")
        if self.sides_px[0] < 1:
            raise ValueError(f"sides_px must be positive, got {self.sides_px}")
        if self.context < 1:
            raise ValueError(f"context must be at least 1, not {self.context}")

    @property
    def largest_px(self) -> int:
        """The side of the largest canvas."""
        return self.sides_px[-1]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Which part of an image lies on a canvas, and how."""

    kind: Kind
    top: int
    left: int
    height: int
    """Of the part, in the image's pixels."""
    width: int
    drawn_height: int
    """Of the part on the canvas; smaller than ``height`` for ``resize``."""
    drawn_width: int
    canvas_height: int
    canvas_width: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The part as an index into the image's rows and columns."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


def plan(hole: Hole, config: CanvasConfig, mode: Mode = "auto") -> Frame:
    """Choose what lies on the canvas.

    Args:
        hole: bool [H, W] with at least one True.
        config: the canvases there are.
        mode: ``auto`` as above; ``crop`` crops around the hole even if the whole image would fit;
            ``resize`` shows the whole image always, smaller if it has to be.
    """
    height, width = hole.shape
    fits = max(height, width) <= config.largest_px
    if mode == "resize" or (mode == "auto" and fits):
        return _frame("whole", (0, height), (0, width), config)
    rows, columns = _extent(hole, axis=1), _extent(hole, axis=0)
    return _frame("crop", _grow(rows, height, config), _grow(columns, width, config), config)


def _extent(hole: Hole, axis: int) -> tuple[int, int]:
    """Return the first row (axis 1) or column (axis 0) of the hole, and one past its last."""
    at = np.flatnonzero(hole.any(axis=axis))
    return int(at[0]), int(at[-1]) + 1


def _grow(extent: tuple[int, int], limit: int, config: CanvasConfig) -> tuple[int, int]:
    """Grow an extent around its centre to the length a crop has, inside ``limit`` pixels."""
    start, stop = extent
    wanted = max(round((stop - start) * config.context), config.least_crop_px)
    length = min(_side(wanted, config) if wanted <= config.largest_px else wanted, limit)
    first = min(max((start + stop - length) // 2, 0), limit - length)
    return first, first + length


def _side(length: int, config: CanvasConfig) -> int:
    """Return the smallest canvas side that holds ``length`` pixels."""
    return next(side for side in config.sides_px if side >= length)


def _frame(
    kind: Kind, rows: tuple[int, int], columns: tuple[int, int], config: CanvasConfig
) -> Frame:
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    scale = min(1.0, config.largest_px / max(height, width))
    drawn_height, drawn_width = (max(round(length * scale), 1) for length in (height, width))
    return Frame(
        kind=kind if scale == 1.0 else "resize",
        top=rows[0],
        left=columns[0],
        height=height,
        width=width,
        drawn_height=drawn_height,
        drawn_width=drawn_width,
        canvas_height=_side(drawn_height, config),
        canvas_width=_side(drawn_width, config),
    )


def lay(image: Pixels, hole: Hole, frame: Frame) -> tuple[Pixels, Pixels]:
    """Put the framed part of an image on its canvas.

    A canvas pixel that any hidden pixel went into is hole, and hidden pixels are blanked first:
    nothing of what the hole covers reaches the network. Padding mirrors both, at right and bottom.

    Args:
        image: uint8 [H, W, 3].
        hole: bool [H, W].
        frame: as planned for ``hole``.

    Returns:
        uint8 [canvas_height, canvas_width, 3] and uint8 [canvas_height, canvas_width] with 1 in
        the hole.
    """
    part, missing = image[frame.window].copy(), hole[frame.window].astype(np.uint8)
    part[missing.astype(bool)] = 127
    if frame.kind == "resize":
        size = (frame.drawn_width, frame.drawn_height)
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        share = cv2.resize(missing.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        missing = (share > 0).astype(np.uint8)
    bottom = frame.canvas_height - frame.drawn_height
    right = frame.canvas_width - frame.drawn_width
    rows, columns = _mirror(frame.drawn_height, bottom), _mirror(frame.drawn_width, right)
    return part[rows][:, columns], missing[rows][:, columns]


def _mirror(length: int, more: int) -> NDArray[np.int64]:
    """Return indices that go on past ``length`` by walking back and forth, for any ``more``."""
    period = max(2 * (length - 1), 1)
    walk = np.arange(length + more) % period
    return np.where(walk < length, walk, period - walk)


def lift(prediction: Pixels, hole: Hole, frame: Frame) -> Pixels:
    """Take a prediction off its canvas, to where it belongs in the image.

    Args:
        prediction: uint8 [canvas_height, canvas_width, 3].
        hole: bool [H, W]; gives the image's size.
        frame: that the canvas was laid with.

    Returns:
        uint8 [H, W, 3]; zero outside the frame, which never reaches the composite.
    """
    drawn = prediction[: frame.drawn_height, : frame.drawn_width]
    if frame.kind == "resize":
        drawn = cv2.resize(drawn, (frame.width, frame.height), interpolation=cv2.INTER_CUBIC)
    whole = np.zeros((*hole.shape, 3), np.uint8)
    whole[frame.window] = drawn
    return whole
