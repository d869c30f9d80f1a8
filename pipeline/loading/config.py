"""The configuration of data loading: sampling, crops, augmentation, masks."""

import math
from dataclasses import dataclass, field
from typing import Literal

from infill.pipeline.errors import UserError
from infill.pipeline.masks import MaskConfig

Crop = Literal["random", "centre", "squash", "centre_square", "subsample"]
"""How an image becomes square."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """A dataset, and how batches are made from it."""

    shards: str = ""
    """Folder or s3:// prefix of a finished shard set; or the tars of any WebDataset by name, such
    as 's3://bucket/{00000..01023}.tar', which need no manifest."""
    validation_shards: str = ""
    """Shard set or tars for validation. Empty: the val set beside the training set."""
    image_member: str = ""
    """For tars without a manifest whose samples have several images: the member to use, such as
    "image.jpg". "*" makes a sample of every image."""
    source: str = ""
    """Images from which training makes shards first, unless ``shards`` is finished: a folder,
    archive or list, as --source of jobs/make_shards.py; "bundled" uses images that installed
    packages carry."""
    dataset: str = "folder"
    """Kind of ``source``, as --kind of jobs/make_shards.py: "folder", or a public dataset by name
    with a paper's own split. The presets of the papers name theirs; --data.dataset folder takes any
    images."""
    label_maps: bool = False
    """Whether batches carry the label maps of the set, cropped, mirrored and turned with the
    images, for a model that takes them (DeepGIN's segmentation_guided). The set must have been made
    by jobs/make_shards.py with --labels."""
    batch_size: int = 8
    """Number of samples per step over all workers (global batch); a multiple of the number of
    workers."""
    image_size_px: int = 256
    """Height and width of the images in a batch, in pixels."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are generated, or which mask files are used."""
    masks_per_image: int = 1
    """Number of consecutive samples that show the same crop of one image, each with its own mask
    (DeepGIN: 3). batch_size counts samples, so it must be a multiple."""
    crop: Crop = "random"
    """How an image becomes square. "random" and "centre" cut a window of image_size_px; "squash"
    resizes the whole image without regard to its shape; "centre_square" resizes the largest square;
    "subsample" squashes to twice the size and keeps every second pixel (DeepGIN)."""
    resize_short_side_px: int = 0
    """Short side in pixels to which images are resized before the window is cut (MADF: 572); 0 does
    not resize."""
    random_resize: float = 0.0
    """Largest ratio of an image's short side to image_size_px after a random resize, before the
    window is cut; the smallest ratio is 1, and the logarithm of the ratio is uniform. Nothing is
    enlarged by it. 0 does not resize."""
    enlarge_small_images: bool = False
    """Whether images smaller than the window are enlarged (DeepFill); otherwise such an image is an
    error."""
    scaled_decoding: bool = False
    """Whether a JPEG that is reduced anyway is decoded at 1/2, 1/4 or 1/8 of its sides if these are
    at least those after the resize. It saves most of the decoding of large images. Pixels differ
    from those of a whole image by less than a level of 255 on average, and the window by up to a
    pixel. Tars without a manifest are decoded whole."""
    horizontal_flip: bool = True
    """Whether each image is mirrored with probability 1/2."""
    quarter_turns: bool = False
    """Whether each image is rotated by 0, 90, 180 or 270 degrees, at random (DeepGIN)."""
    colour_jitter: float = 0.0
    """Maximum relative change of brightness, contrast, saturation and hue, from 0 (off) to 0.5
    (PEN-Net: 0.05)."""
    seed: int = 0
    """Seed of the order of samples, the augmentations and the masks."""
    shuffle_window_shards: int = 8
    """Number of shards of a lane whose samples are shuffled together. More mix better and keep more
    files open."""
    shuffle_lanes: int = 1
    """Number of lanes to which an epoch's shards are dealt; each has its own shuffle window. With
    N nodes a node reads at most about 1/N + 3/lanes of the set per epoch, with one lane the whole
    set. Give four times the number of nodes or more, but at most a quarter of the images in a
    batch, and shuffle_window_shards 2. The order of samples depends on it."""
    loader: Literal["threads", "processes", "ray"] = "threads"
    """Where images are decoded: in "threads" of the training process, which start at once; in
    "processes" beside it, which the GIL does not slow down; or in "ray" tasks on any free CPU of
    the cluster. The batches are the same to the bit."""
    num_decode_workers: int = 2
    """Number of threads or processes per training worker that read, decode and generate masks."""
    prefetch_batches: int = 2
    """Number of batches that are loaded ahead of the training step."""
    verify_checksums: bool = False
    """Whether every image is compared with its SHA-256 as it is read; it costs a tenth more time
    per small JPEG."""
    skip_damaged: bool = False
    """Whether a damaged sample is left out, named once and counted (damaged_samples), instead of
    ending the training. The next intact sample of the manifest stands in for it, so that batches
    stay full, and the same on any number of workers. Images of WebDataset tars without a manifest
    are left out in any case."""
    cache_folder: str = "~/.cache/infill/shards"
    """Local folder in which each node caches remote shards."""
    cache_size_gb: float = 50.0
    """Maximum size of that cache in GB; the oldest shards are deleted beyond it. It should hold two
    shuffle windows of each lane that the node reads."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, least in (
            ("batch_size", 1),
            ("masks_per_image", 1),
            ("image_size_px", 8),
            ("resize_short_side_px", 0),
            ("shuffle_window_shards", 1),
            ("shuffle_lanes", 1),
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
        if self.label_maps and self.source:
            raise UserError(
                "label_maps needs finished shards, made by `python jobs/make_shards.py --labels "
                "FOLDER`: give them as shards, and leave source empty"
            )
        if not 0 <= self.colour_jitter <= 0.5:
            raise UserError(f"colour_jitter must lie in [0, 0.5], found {self.colour_jitter}")
        if self.random_resize and self.random_resize < 1:
            raise UserError(f"random_resize must be 0 or at least 1, found {self.random_resize}")
        if self.random_resize and self.crop not in ("random", "centre"):
            raise UserError(f'random_resize goes with crop "random" or "centre", not {self.crop!r}')
        if 0 < self.resize_short_side_px < self.image_size_px:
            raise UserError(
                f"resize_short_side_px ({self.resize_short_side_px}) must be 0 or at least "
                f"image_size_px ({self.image_size_px}), the window cut from the resized image"
            )

    @property
    def least_side_px(self) -> int:
        """Short side that an image needs at least for the same sample at any scale; 0: all of it.

        An image is reduced to this side or less before anything is cut from it.
        """
        fixed = {"squash": 1, "centre_square": 1, "subsample": 2}
        if self.crop in fixed:
            return fixed[self.crop] * self.image_size_px
        return self.resize_short_side_px or math.ceil(self.random_resize * self.image_size_px)

    @property
    def keeps_scale(self) -> bool:
        """Whether a window of image_size_px is cut, so that smaller images are refused."""
        windowed = self.crop in ("random", "centre")
        return windowed and not (self.resize_short_side_px or self.enlarge_small_images)
