"""The configuration of batches: sampling, crops, augmentation, masks."""

from dataclasses import dataclass, field
from typing import Literal

from infill.pipeline.errors import UserError
from infill.pipeline.masks import MaskConfig

Crop = Literal["random", "centre", "squash", "centre_square", "subsample"]


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Batches of a shard set."""

    shards: str = ""
    """Folder or s3:// prefix of a finished shard set; or the tars of any WebDataset by name, such
    as 's3://bucket/{00000..01023}.tar', which need no manifest."""
    validation_shards: str = ""
    """Shard set or tars for the validation scores; empty for the val split beside training's."""
    image_member: str = ""
    """For tars without a manifest: which member of a sample is its image, such as "image.jpg",
    where several could be; "*" for every image as a sample of its own."""
    source: str = ""
    """Photographs that a training shards first, unless ``shards`` is finished: a folder, archive or
    list, as --source of jobs/make_shards.py; "bundled" for those that installed packages carry."""
    batch_size: int = 8
    """Samples per step over all workers; a multiple of their number."""
    image_size_px: int = 256
    """Height and width of what the network sees."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """The holes."""
    masks_per_image: int = 1
    """Samples in a row that show the same window of one image, each with a mask of its own
    (DeepGIN: 3); batch_size counts samples, so it is a multiple."""
    crop: Crop = "random"
    """Which part of the image: a "random" or the "centre" window of image_size_px; all of it,
    "squash"-ed to a square; the largest "centre_square", resized; or all of it squashed to twice
    the size, of which every second pixel is kept ("subsample", DeepGIN)."""
    resize_short_side_px: int = 0
    """Resize to this short side before cropping a window (MADF: 572); 0 to crop as it is."""
    enlarge_small_images: bool = False
    """Enlarge images smaller than the window, instead of refusing them (DeepFill)."""
    horizontal_flip: bool = True
    """Mirror every other image, by chance."""
    quarter_turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees, by chance (DeepGIN)."""
    colour_jitter: float = 0.0
    """Most that brightness, contrast, saturation and hue change (PEN-Net: 0.05)."""
    seed: int = 0
    """Of order, crops, flips, colours and masks."""
    shuffle_window_shards: int = 8
    """Shards whose samples are shuffled among each other: better mixing for more open shards."""
    loader: Literal["threads", "processes", "ray"] = "threads"
    """Who decodes: the worker's own threads, which start at once; processes beside it, which no
    lock of Python's slows down; or Ray Data on any CPU of the cluster, which needs CPUs that no
    worker has reserved. The batches are the same to the bit."""
    num_decode_workers: int = 2
    """Threads or processes per worker that read, decode and generate masks."""
    prefetch_batches: int = 2
    """Batches made ahead of the one in use."""
    verify_checksums: bool = False
    """Compare every image with its SHA-256 as it is read: a tenth more time per small JPEG."""
    cache_folder: str = "~/.cache/infill/shards"
    """Where each node keeps the remote shards that its workers read."""
    cache_size_gb: float = 50.0
    """The oldest kept shards are deleted past this; should exceed two windows of shards."""

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        for name, least in (
            ("batch_size", 1),
            ("masks_per_image", 1),
            ("image_size_px", 8),
            ("resize_short_side_px", 0),
            ("shuffle_window_shards", 1),
            ("num_decode_workers", 1),
            ("prefetch_batches", 0),
            ("cache_size_gb", 0),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, found {getattr(self, name)}")
        if self.batch_size % self.masks_per_image:
            raise UserError(
                f"batch_size ({self.batch_size}) must be a multiple of masks_per_image "
                f"({self.masks_per_image})"
            )
        if not 0 <= self.colour_jitter <= 0.5:
            raise UserError(f"colour_jitter must lie in [0, 0.5], found {self.colour_jitter}")
        if 0 < self.resize_short_side_px < self.image_size_px:
            raise UserError(
                f"resize_short_side_px ({self.resize_short_side_px}) must be 0 or at least "
                f"image_size_px ({self.image_size_px}), the window cut from the resized image"
            )

    @property
    def keeps_scale(self) -> bool:
        """Whether a window of image_size_px is cut, so that smaller images do not do."""
        windowed = self.crop in ("random", "centre")
        return windowed and not (self.resize_short_side_px or self.enlarge_small_images)
