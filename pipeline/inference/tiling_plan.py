"""Choose the tiles of an image, at a bounded cost.

In mode ``auto`` the network sees

* the whole image, if that fits on the largest tile;
* else a crop around the hole, grown to show its surroundings, if that fits;
* else such a crop around each of a few separate holes, if those fit;
  (with more than :data:`MAX_SEPARATE_HOLES` they are not looked at one by one)
* else the crop around all of them, made smaller; the prediction is enlarged again.

On request (``refine``) such a reduced prediction gives the structure, and overlapping tiles at full
resolution its detail; or (``tile``) the hole is covered by such tiles alone, blended where they
overlap; or (``subsample``) every n-th pixel each way makes an image of its own, and the
predictions are interleaved again: DeepGIN's protocol for large images, without its resizing.
"""

import cv2
import numpy as np

from infill.pipeline.images import Hole
from infill.pipeline.inference.config import Mode, TilingConfig
from infill.pipeline.inference.refinement import Refinement
from infill.pipeline.inference.tiling import Kind, Layout, Strides, Tile, Tiles

MAX_SEPARATE_HOLES = 10_000
"""Maximum number of connected holes that are considered one by one."""
Span = tuple[int, int]
"""First row or column, and one past the last."""


def plan_tiles(hole: Hole, config: TilingConfig, mode: Mode = "auto") -> Layout:
    """Choose the layout of an image.

    Args:
        hole: bool [H, W] with at least one True.
        config: the possible tiles.
        mode: ``auto`` as above; ``crop`` crops around the hole even if the whole image would fit;
            ``resize`` always shows the whole image, reduced if necessary; ``refine`` is ``auto``
            where nothing is reduced.

    Raises:
        ValueError: if ``tile``, ``refine`` or ``subsample`` needs more tiles than allowed.
    """
    height, width = hole.shape
    if mode == "subsample":
        return _plan_strides(height, width, config)
    if mode == "tile":
        return _plan_tiles(hole, config)
    if mode == "refine":
        return _plan_refinement(hole, config)
    fits = max(height, width) <= config.largest_px
    if mode == "resize" or (mode == "auto" and fits):
        return Tiles((_frame("whole", (0, height), (0, width), config),))
    single = _crop(_extent(hole, axis=1), _extent(hole, axis=0), hole.shape, config)
    if mode == "auto" and single.kind == "resize":
        return _plan_crops(hole, config) or Tiles((single,))
    return Tiles((single,))


def _crop(rows: Span, columns: Span, shape: tuple[int, ...], config: TilingConfig) -> Tile:
    """Return a crop of a box and its surroundings."""
    height, width = shape
    return _frame("crop", _grow(rows, height, config), _grow(columns, width, config), config)


def _plan_crops(hole: Hole, config: TilingConfig) -> Tiles | None:
    """Crop around each separate hole, if they are few and each crop fits.

    Counting the holes is cheap for any mask; the boxes of millions of them are not.
    """
    (top, bottom), (left, right) = _extent(hole, axis=1), _extent(hole, axis=0)
    part = hole[top:bottom, left:right].view(np.uint8)
    if cv2.connectedComponents(part, connectivity=8)[0] - 1 > MAX_SEPARATE_HOLES:
        return None
    _, _, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
    boxes = [
        ((top + y, top + y + height), (left + x, left + x + width))
        for x, y, width, height, _ in stats[1:].tolist()
    ]
    frames: list[Tile] = []
    while boxes:
        frame = _crop(*boxes[0], hole.shape, config)
        boxes = [box for box in boxes[1:] if not _shows(frame, *box)]
        frames.append(frame)
        if frame.kind == "resize" or len(frames) > config.max_crops:
            return None
    return Tiles(tuple(frames))


def _shows(frame: Tile, rows: Span, columns: Span) -> bool:
    """Return whether a box lies within a tile."""
    bottom, right = frame.top + frame.height, frame.left + frame.width
    above = frame.top <= rows[0] and rows[1] <= bottom
    return above and frame.left <= columns[0] and columns[1] <= right


def _plan_refinement(hole: Hole, config: TilingConfig) -> Layout:
    """Plan the reduced part as ``auto`` does, and tiles over the hole."""
    reduced = plan_tiles(hole, config)
    if not isinstance(reduced, Tiles) or reduced.kind != "resize":
        return reduced
    frames = _tiles_over(hole, config)
    seeing = tuple(frame for frame in frames if not hole[frame.window].all())
    blind = tuple(frame for frame in frames if hole[frame.window].all())
    _refuse_too_many(1 + len(seeing), "tiles", config)
    return Refinement(reduced, seeing, blind)


def _plan_tiles(hole: Hole, config: TilingConfig) -> Tiles:
    frames = _tiles_over(hole, config)
    _refuse_too_many(len(frames), "tiles", config)
    return Tiles(tuple(frames))


def _tiles_over(hole: Hole, config: TilingConfig) -> list[Tile]:
    """Cover the hole with overlapping tiles of the largest size."""
    height, width = hole.shape
    rows = _cover(_extent(hole, axis=1), height, config)
    columns = _cover(_extent(hole, axis=0), width, config)
    return [
        _frame("tile", row, column, config)
        for row in rows
        for column in columns
        if hole[slice(*row), slice(*column)].any()
    ]


def _cover(extent: Span, limit: int, config: TilingConfig) -> list[Span]:
    """Return spans as long as the largest tile that cover an extent and overlap enough."""
    start, stop = _grow(extent, limit, config)
    length = config.largest_px
    overlap = round(length * config.overlap)
    if stop - start <= length:
        return [(start, stop)]
    count = -(-(stop - start - overlap) // (length - overlap))
    step = (stop - start - length) / (count - 1)
    firsts = [start + round(step * number) for number in range(count)]
    return [(first, first + length) for first in firsts]


def _plan_strides(height: int, width: int, config: TilingConfig) -> Strides:
    step = -(-max(height, width) // config.largest_px)
    _refuse_too_many(step * step, "sub-images", config)
    tile = (_side(-(-height // step), config), _side(-(-width // step), config))
    return Strides(step, tile)


def _refuse_too_many(count: int, what: str, config: TilingConfig) -> None:
    if count > config.max_tiles:
        raise ValueError(
            f"the image needs {count} {what}, more than max_tiles {config.max_tiles}; "
            "use mode auto, or a smaller image"
        )


def _extent(hole: Hole, axis: int) -> Span:
    """Return the first row (axis 1) or column (axis 0) of the hole, and one past its last."""
    at = np.flatnonzero(hole.any(axis=axis))
    return int(at[0]), int(at[-1]) + 1


def _grow(extent: Span, limit: int, config: TilingConfig) -> Span:
    """Grow an extent around its centre to a crop's length, inside ``limit`` pixels."""
    start, stop = extent
    wanted = max(round((stop - start) * config.context), config.least_crop_px)
    length = min(_side(wanted, config) if wanted <= config.largest_px else wanted, limit)
    first = min(max((start + stop - length) // 2, 0), limit - length)
    return first, first + length


def _side(length: int, config: TilingConfig) -> int:
    """Return the smallest tile side that holds ``length`` pixels."""
    return next(side for side in config.all_sides_px if side >= length)


def _frame(kind: Kind, rows: Span, columns: Span, config: TilingConfig) -> Tile:
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    scale = min(1.0, config.largest_px / max(height, width))
    scaled_height, scaled_width = (max(round(length * scale), 1) for length in (height, width))
    return Tile(
        kind=kind if scale == 1.0 else "resize",
        top=rows[0],
        left=columns[0],
        height=height,
        width=width,
        scaled_height=scaled_height,
        scaled_width=scaled_width,
        tile_height=_side(scaled_height, config),
        tile_width=_side(scaled_width, config),
    )
