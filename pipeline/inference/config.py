"""The configuration of tiling: the tile sizes, and how much context a hole is given."""

from dataclasses import dataclass, replace
from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]
"""Data type in which a network computes."""
Mode = Literal["auto", "crop", "resize", "refine", "tile", "subsample"]
"""How an image larger than the largest tile is processed."""

MAX_BATCH_SIZE = 8
MAX_BATCH_PX = 8 * 512 * 512
LARGE_SIDES_PX = (768, 1024)
"""Tiles that need more memory, which :attr:`TilingConfig.extend_to_px` adds."""


@dataclass(frozen=True, kw_only=True)
class TilingConfig:
    """The sizes of tiles (network inputs), and how images are cut into them."""

    sides_px: tuple[int, ...] = (64, 128, 256, 384, 512)
    """Possible heights and widths of a tile in pixels, in ascending order; each pair is one input
    shape."""
    extend_to_px: int = 0
    """Largest further tile, where memory allows: 768 and 1,024 px are added to ``sides_px`` up to
    this. A tile of 1,024 px needs four times the memory of one of 512 px. 0 adds none."""
    context: float = 2.0
    """Side of a crop around a hole, as a multiple of the hole's side."""
    least_crop_px: int = 256
    """Minimum side of a crop in pixels, if the image is as large."""
    overlap: float = 0.125
    """Minimum overlap of neighbouring tiles, as a share of the largest tile."""
    max_crops: int = 8
    """Maximum number of separate crops in mode ``auto``."""
    max_tiles: int = 64
    """Maximum number of tiles of one image; tiles and subsampling of a larger image may need
    more."""

    def __post_init__(self) -> None:
        if not self.sides_px or list(self.sides_px) != sorted(set(self.sides_px)):
            raise ValueError(f"sides_px must ascend, got {self.sides_px}")
        if self.sides_px[0] < 1:
            raise ValueError(f"sides_px must be positive, got {self.sides_px}")
        if not 0 <= self.extend_to_px <= LARGE_SIDES_PX[-1]:
            raise ValueError(
                f"extend_to_px must be 0 to {LARGE_SIDES_PX[-1]}, not {self.extend_to_px}; larger "
                "tiles are given in sides_px"
            )
        if self.context < 1:
            raise ValueError(f"context must be at least 1, not {self.context}")
        if not 0 <= self.overlap <= 0.5:
            raise ValueError(f"overlap must be 0 to 0.5, not {self.overlap}")

    def for_model(self, image_size_px: int) -> "TilingConfig":
        """Return this configuration with a model's training size as a further tile.

        An image of the size that a model was trained on is then predicted without padding.

        Args:
            image_size_px: side of the images that the model was trained on; 0 if unknown.
        """
        if image_size_px < 1:
            return self
        return replace(self, sides_px=tuple(sorted({*self.sides_px, image_size_px})))

    @property
    def added_px(self) -> tuple[int, ...]:
        """The sides that ``extend_to_px`` adds."""
        most = self.extend_to_px
        return tuple(side for side in LARGE_SIDES_PX if self.sides_px[-1] < side <= most)

    @property
    def all_sides_px(self) -> tuple[int, ...]:
        """The sides of all tiles, in ascending order."""
        return (*self.sides_px, *self.added_px)

    @property
    def largest_px(self) -> int:
        """The side of the largest tile."""
        return self.all_sides_px[-1]


def tiles_per_pass(
    height: int,
    width: int,
    samples: int = 1,
    max_size: int = MAX_BATCH_SIZE,
    max_px: int = MAX_BATCH_PX,
) -> int:
    """Return how many tiles of a size, each with ``samples`` results, share a forward pass.

    Args:
        height: of a tile, in pixels.
        width: likewise.
        samples: results of each tile.
        max_size: results in one pass, at most.
        max_px: pixels in one pass, at most; a single tile always passes.
    """
    samples = max(samples, 1)
    return max(min(max_size // samples, max_px // (height * width * samples)), 1)
