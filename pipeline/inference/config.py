"""The configuration of tiling: the tile sizes, and how much context a hole is given."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]
Mode = Literal["auto", "crop", "resize", "tile", "subsample"]


@dataclass(frozen=True, kw_only=True)
class TilingConfig:
    """The canvases there are, and how much surrounding a hole is given."""

    sides_px: tuple[int, ...] = (128, 256, 384, 512)
    """Heights and widths of a canvas, in ascending order; each pair is one shape of batches."""
    context: float = 2.0
    """A crop's side as a multiple of the hole's."""
    least_crop_px: int = 256
    """A crop is no smaller than this, where the image allows."""
    overlap: float = 0.125
    """By how much neighbouring tiles overlap, at least, as a share of the largest canvas."""
    max_crops: int = 8
    """Most separate crops that ``auto`` makes."""
    max_canvases: int = 64
    """Most canvases of one image; tiles and subsampling of a large one may need more."""

    def __post_init__(self) -> None:
        if not self.sides_px or list(self.sides_px) != sorted(set(self.sides_px)):
            raise ValueError(f"sides_px must ascend, got {self.sides_px}")
        if self.sides_px[0] < 1:
            raise ValueError(f"sides_px must be positive, got {self.sides_px}")
        if self.context < 1:
            raise ValueError(f"context must be at least 1, not {self.context}")
        if not 0 <= self.overlap <= 0.5:
            raise ValueError(f"overlap must be 0 to 0.5, not {self.overlap}")

    @property
    def largest_px(self) -> int:
        """The side of the largest canvas."""
        return self.sides_px[-1]
