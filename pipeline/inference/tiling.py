"""Tiles: split an image into sizes that the network accepts, and merge the predictions.

The composite is made at the image's own resolution, so only the hole is ever resampled. This module
is array arithmetic and independent of requests; ``tiling_plan.py`` chooses the layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from infill.pipeline.images import Hole, Pixels

_BLANK = 127  # the middle grey, near 0 for a network
_BAND_ROWS = 128  # that are blended at once, at 16 bytes a pixel

Kind = Literal["whole", "crop", "resize", "tile", "refine", "subsample"]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A part of an image, and its position and size on a tile."""

    kind: Kind
    top: int
    left: int
    height: int
    """Height of the part, in the image's pixels."""
    width: int
    scaled_height: int
    """Height of the part on the tile; smaller than ``height`` for ``resize``."""
    scaled_width: int
    tile_height: int
    tile_width: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The part as an index into the image's rows and columns."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


class Layout(Protocol):
    """The split of one image into one or more tiles."""

    @property
    def kind(self) -> Kind:
        """The kind of layout."""
        ...

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each tile."""
        ...

    @property
    def scale(self) -> float:
        """The smallest size at which the network sees a part, as a share of its own: 1 is full."""
        ...

    def split_tiles(self, image: Pixels, hole: Hole) -> list[tuple[Pixels, Pixels]]:
        """Split an image into its tiles.

        A tile pixel that depends on any hidden pixel is part of the hole, and hidden pixels are
        blanked first: the network receives nothing of the hole's content.

        Args:
            image: uint8 [H, W, 3].
            hole: bool [H, W].

        Returns:
            For each tile, uint8 [h, w, 3] and uint8 [h, w] with 1 in the hole.
        """
        ...

    def merge_tiles(self, predictions: Sequence[Pixels], hole: Hole) -> Pixels:
        """Merge the predictions of the tiles into the image.

        Args:
            predictions: for each tile, uint8 [h, w, 3].
            hole: bool [H, W]; gives the image's size.

        Returns:
            uint8 [H, W, 3]; only the pixels in the hole are valid.
        """
        ...


@dataclass(frozen=True)
class Tiles:
    """One or more parts of an image, each on a tile of its own, blended where they overlap."""

    frames: tuple[Tile, ...]

    @property
    def kind(self) -> Kind:
        """The kind of every tile."""
        return self.frames[0].kind

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each tile."""
        return [(frame.tile_height, frame.tile_width) for frame in self.frames]

    @property
    def scale(self) -> float:
        """The smallest size at which the network sees a part; see :attr:`Layout.scale`."""
        return min(
            max(frame.scaled_height / frame.height, frame.scaled_width / frame.width)
            for frame in self.frames
        )

    def split_tiles(self, image: Pixels, hole: Hole) -> list[tuple[Pixels, Pixels]]:
        """Split the parts; see :meth:`Layout.split_tiles`."""
        return [_lay(image, hole, frame) for frame in self.frames]

    def merge_tiles(self, predictions: Sequence[Pixels], hole: Hole) -> Pixels:
        """Merge and blend the parts; see :meth:`Layout.merge_tiles`."""
        whole = np.zeros((*hole.shape, 3), np.uint8)
        parts = [_lift(p, frame) for p, frame in zip(predictions, self.frames, strict=True)]
        if len(parts) == 1:
            whole[self.frames[0].window] = parts[0]
            return whole
        top, bottom = min(f.top for f in self.frames), max(f.top + f.height for f in self.frames)
        for first in range(top, bottom, _BAND_ROWS):
            self._blend(whole[first : min(first + _BAND_ROWS, bottom)], first, parts)
        return whole

    def _blend(self, band: Pixels, top: int, parts: Sequence[Pixels]) -> None:
        """Blend the parts in a band of rows, which begins at row ``top`` of the image."""
        left, right = min(f.left for f in self.frames), max(f.left + f.width for f in self.frames)
        shares = np.zeros((len(band), right - left, 1), np.float32)
        colours = np.zeros((len(band), right - left, 3), np.float32)
        for part, frame in zip(parts, self.frames, strict=True):
            begin = max(frame.top, top)
            rows = slice(begin - frame.top, min(frame.height, top + len(band) - frame.top))
            if rows.start >= rows.stop:
                continue
            inside = (
                slice(begin - top, begin - top + rows.stop - rows.start),
                slice(frame.left - left, frame.left - left + frame.width),
            )
            weight = tent(frame, rows)
            colours[inside] += weight * part[rows]
            shares[inside] += weight
        np.divide(colours, shares, out=colours, where=shares > 0)
        band[:, left:right] = np.rint(colours, out=colours)


_ALL_ROWS = slice(None)


def tent(frame: Tile, rows: slice = _ALL_ROWS) -> NDArray[np.float32]:
    """Return weights of a tile's pixels by their distance from its edges, [height, width, 1].

    Args:
        frame: the tile.
        rows: the rows that are returned.
    """
    height, width = frame.height, frame.width
    down = np.minimum(np.arange(1, height + 1), np.arange(height, 0, -1)).astype(np.float32)[rows]
    columns = np.minimum(np.arange(1, width + 1), np.arange(width, 0, -1)).astype(np.float32)
    weight: NDArray[np.float32] = np.minimum(down[:, None], columns[None])[..., None]
    return weight


def _lay(image: Pixels, hole: Hole, frame: Tile) -> tuple[Pixels, Pixels]:
    missing = hole[frame.window].astype(np.uint8)
    size = (frame.scaled_width, frame.scaled_height)
    if frame.kind == "resize":
        share = cv2.resize(missing.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        missing = (share > 0).astype(np.uint8)
    part = image[frame.window].copy()
    np.copyto(part, np.uint8(_BLANK), where=hole[frame.window][..., None])
    if frame.kind == "resize":
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    return _pad(part, missing, (frame.tile_height, frame.tile_width))


def _lift(prediction: Pixels, frame: Tile) -> Pixels:
    part = prediction[: frame.scaled_height, : frame.scaled_width]
    if frame.kind == "resize":
        part = cv2.resize(part, (frame.width, frame.height), interpolation=cv2.INTER_CUBIC)
    return part


@dataclass(frozen=True)
class Strides:
    """Every ``step``-th pixel each way as an image of its own: ``step``² tiles of one size."""

    step: int
    tile: tuple[int, int]
    kind: Kind = "subsample"

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each tile."""
        return [self.tile] * self.step**2

    @property
    def scale(self) -> float:
        """1: every pixel is seen, in one of the sub-images."""
        return 1.0

    def split_tiles(self, image: Pixels, hole: Hole) -> list[tuple[Pixels, Pixels]]:
        """Split the image into sub-images, row phases first; see :meth:`Layout.split_tiles`."""
        blanked = np.where(hole[..., None], np.uint8(_BLANK), image)
        missing = hole.astype(np.uint8)
        return [
            _pad(
                blanked[v :: self.step, u :: self.step],
                missing[v :: self.step, u :: self.step],
                self.tile,
            )
            for v, u in self._phases(hole)
        ]

    def merge_tiles(self, predictions: Sequence[Pixels], hole: Hole) -> Pixels:
        """Interleave the sub-images again; see :meth:`Layout.merge_tiles`."""
        whole = np.zeros((*hole.shape, 3), np.uint8)
        for (v, u), prediction in zip(self._phases(hole), predictions, strict=True):
            phase = whole[v :: self.step, u :: self.step]
            phase[:] = prediction[: phase.shape[0], : phase.shape[1]]
        return whole

    def _phases(self, hole: Hole) -> list[tuple[int, int]]:
        """Return the offsets of the sub-images; those beyond a narrow image repeat the last."""
        height, width = hole.shape
        steps = range(self.step)
        return [(min(v, height - 1), min(u, width - 1)) for v in steps for u in steps]


def _pad(part: Pixels, missing: Pixels, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Pad both to a tile, at bottom and right, by mirroring."""
    height, width = missing.shape
    rows, columns = _mirror(height, size[0] - height), _mirror(width, size[1] - width)
    return part[rows][:, columns], missing[rows][:, columns]


def _mirror(length: int, more: int) -> NDArray[np.int64]:
    """Return indices that continue past ``length`` by reflection, for any ``more``."""
    period = max(2 * (length - 1), 1)
    walk = np.arange(length + more) % period
    return np.where(walk < length, walk, period - walk)
