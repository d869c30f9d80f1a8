"""The configuration of sharding."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from infill.pipeline.config import flatten
from infill.pipeline.errors import UserError
from infill.pipeline.sources import S3Config, require_kind

NOT_CONTENT = ("out", "overwrite", "max_quarantined_share", "s3.endpoint")
"""Settings that change nothing in the shards, and so are not part of their identity."""


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """The source of the images, how they are preprocessed, and where the shards go."""

    kind: str = "folder"
    """Kind of source: "folder", "archives" (all zips and tars below a folder), "bundled" (images
    that installed packages carry), or a public dataset as its authors distribute it, by the name of
    its preset. A paper's name stands where its split is its own."""
    source: str = ""
    """Folder or s3:// prefix of the images; or one zip or tar; or a CSV or Parquet list with a
    column "path" (and "split"). Empty for "bundled"."""
    labels: str = ""
    """Folder or s3:// prefix of label maps, one PNG for each image: below it the image's path with
    the suffix .png, or the end of that path. They are stored beside the images as KEY.labels.png,
    cut and resized alike, and an image without one is quarantined. Empty: none. They are read when
    a shard is made: after a change of label maps choose another --out."""
    out: str = "runs/shards"
    """Folder or s3:// prefix for the sets, as train/, val/ and test/. Every machine of a cluster
    must see it."""
    photographs_per_shard: int = 1000
    """Number of original images per tar; at 100 KB each, 1000 make a tar of 100 MB."""
    format: Literal["original", "jpg", "png", "webp"] = "original"
    """File format of the samples. "original" keeps the bytes of every plain image that is not
    altered: a still, 8-bit, grey or RGB JPEG, PNG or WebP without transparency. Others are encoded
    once: JPEG and WebP in their own format, all others as PNG. A plain image that already has the
    wanted format and is neither cropped nor resized keeps its bytes, too."""
    quality: int = 95
    """Quality of encoded JPEG and WebP, 1 to 100."""
    frame: Literal["whole", "square", "squash"] = "whole"
    """First preprocessing step: "whole" keeps the image, "square" cuts the largest square at its
    centre (CelebA's custom), "squash" resizes both sides to resize_short_side_px (SPN's)."""
    resize_short_side_px: int | None = None
    """Short side in pixels to which larger images are reduced before cropping, so that training
    decodes less. None does not resize; images are never enlarged."""
    crop_size_px: int | None = None
    """Side in pixels of the squares into which each image is cut, from the top left; None keeps it
    whole."""
    crop_stride_px: int | None = None
    """Distance in pixels from one square to the next; None lets them touch."""
    min_side_px: int = 64
    """Minimum side in pixels; smaller images are quarantined."""
    max_pixels: int = 100_000_000
    """Maximum number of pixels; larger images are quarantined undecoded, as a small file can claim
    any size."""
    max_quarantined_share: float = 0.1
    """Maximum share of quarantined images, 0 to 1; beyond it the job fails."""
    splits: Literal["auto", "folders", "shares"] = "auto"
    """How train, val and test are separated: by the source's "folders" of these names, or by random
    "shares". "auto" uses the folders if every image lies in one of them; folders below others and
    in other case, such as photos/Train and photos/Test, count too."""
    val_share: float = 0.05
    """Share of the images for validation, if the source has no splits of its own."""
    test_share: float = 0.1
    """Share of the images for test, if the source has no splits of its own."""
    seed: int = 0
    """Seed of the random choice of validation and test images."""
    overwrite: bool = False
    """Whether to replace a finished set that was made with other settings, or by a version without
    a column of the manifest."""
    s3: S3Config = field(default_factory=S3Config)
    """The S3 service behind s3:// addresses."""

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


def identity(config: ShardConfig) -> dict[str, Any]:
    """Return :func:`content_settings` without locations: moving a folder does not matter."""
    settings = {**content_settings(config), "source": None, "labels": bool(config.labels)}
    if not config.labels:  # as in releases without label maps
        del settings["labels"]
    return settings


def content_settings(config: ShardConfig) -> dict[str, Any]:
    """Return the settings that decide what the shards hold, by name."""
    return {name: value for name, value in flatten(config).items() if name not in NOT_CONTENT}


def as_saved_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return an earlier release's :func:`content_settings` with the fields that are newer.

    They have their defaults, by which the shards are what they were.
    """
    return {**content_settings(ShardConfig()), **settings}
