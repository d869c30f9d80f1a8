"""The configuration of sharding."""

from dataclasses import dataclass, field
from typing import Any, Literal

from infill.pipeline.config import flatten
from infill.pipeline.errors import UserError
from infill.pipeline.sources import S3Config, require_kind

NOT_CONTENT = ("out", "overwrite", "max_quarantined_share", "s3.endpoint")
"""Settings that change nothing in the shards, and so are not part of their identity."""


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Which photographs become shards, how they are prepared, and where the shards go."""

    kind: str = "folder"
    """The source: "folder", "archives" (all zips and tars below a folder), "bundled" (photographs
    that installed packages carry), or a public set as its authors distribute it: places2,
    places2-12k, places2-large, places2-large-12k, celeba, celeba-hq, paris, dtd-1 to dtd-10,
    facade, imagenet, ffhq, oxford, ade20k."""
    source: str = ""
    """The folder of photographs, or s3://bucket/prefix; also one zip or tar, or a CSV or Parquet
    list with a column "path" (and "split"); empty for "bundled"."""
    out: str = "runs/shards"
    """Where the sets go, as train/, val/ and test/; every machine of a cluster must see it."""
    photographs_per_shard: int = 1000
    """Originals in one tar; with 100 KB each, 1000 make a tar of 100 MB."""
    format: Literal["original", "jpg", "png", "webp"] = "original"
    """What to encode as; "original" keeps the bytes of every plain picture that is not altered.

    Plain is a still, 8-bit, grey or RGB JPEG, PNG or WebP without transparency. Others are encoded
    once: JPEG and WebP as they were, all else as PNG. A plain picture that already has the wanted
    format and is neither cropped nor resized keeps its bytes, too."""
    quality: int = 95
    """Of JPEG and WebP where something is encoded, 1 to 100."""
    frame: Literal["whole", "square", "squash"] = "whole"
    """What is taken of a photograph before all else: all of it, the largest square at its centre
    (CelebA's custom), or all of it with both sides made resize_short_side_px (SPN's)."""
    resize_short_side_px: int | None = None
    """Shrink to this short side before cropping, so that training decodes less; never enlarges."""
    crop_size_px: int | None = None
    """Cut each photograph into squares of this side, from the top left; whole ones if None."""
    crop_stride_px: int | None = None
    """Distance from one square to the next; the squares touch if None."""
    min_side_px: int = 64
    """Photographs with a shorter side are quarantined."""
    max_pixels: int = 100_000_000
    """Photographs with more are quarantined unopened: a small file can claim a vast picture."""
    max_quarantined_share: float = 0.1
    """Fail when more than this share of the photographs cannot be taken."""
    splits: Literal["auto", "folders", "shares"] = "auto"
    """How train, val and test are separated: by the source's own folders of these names, or by
    shares; "auto" takes the folders where every photograph lies in one."""
    val_share: float = 0.05
    """Share of the photographs for validation, where the source has no splits of its own."""
    test_share: float = 0.1
    """Share of the photographs for test, where the source has no splits of its own."""
    seed: int = 0
    """Of the choice of photographs for validation and test."""
    overwrite: bool = False
    """Replace a finished set that was made with other settings."""
    s3: S3Config = field(default_factory=S3Config)
    """Where s3:// leads."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is read."""
        require_kind(self.kind)
        for name in ("photographs_per_shard", "min_side_px", "max_pixels"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("resize_short_side_px", "crop_size_px", "crop_stride_px"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1")
        _require(1 <= self.quality <= 100, "quality", self.quality, "1 to 100")
        for name in ("val_share", "test_share", "max_quarantined_share"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        together = self.val_share + self.test_share
        _require(together < 1, "val_share + test_share", together, "less than 1")
        if self.crop_stride_px is not None and self.crop_size_px is None:
            raise UserError("crop_stride_px needs crop_size_px: give the side of the squares, too")
        if self.frame == "squash" and self.resize_short_side_px is None:
            raise UserError('frame "squash" needs resize_short_side_px: the side to squash to')
        short, crop = self.resize_short_side_px, self.crop_size_px
        if short is not None and crop is not None and short < crop:
            raise UserError(
                f"resize_short_side_px {short} leaves no room for crop_size_px {crop}; "
                "make the crops smaller or the short side longer"
            )


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UserError(f"{name} is {value}, expected {expected}")


def content_settings(config: ShardConfig) -> dict[str, Any]:
    """Return the settings that decide what the shards hold, by name."""
    return {name: value for name, value in flatten(config).items() if name not in NOT_CONTENT}
