"""The configuration of batch inference."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from infill.pipeline.errors import UserError
from infill.pipeline.images import HOLE_THRESHOLD, Channel, Format, MaskRule, Polarity
from infill.pipeline.inference.config import Mode, TilingConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.pretrained import DEFAULT
from infill.pipeline.registry import RegistryConfig
from infill.pipeline.serving.limits import LimitsConfig

FAILURES = "failures.jsonl"
SETTINGS = "batch.json"
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "same": ""}
_FORMATS: dict[str, Format] = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


@dataclass(frozen=True, kw_only=True)
class BatchInferenceConfig:
    """Images and masks, and the model or endpoint that inpaints them."""

    folder: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FOLDER")]]
    """The images: a folder (with its subfolders), an s3:// prefix, or a shard set."""
    out: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OUT")]]
    """Folder or s3:// prefix for the composites, under the images' names. For a shard set, it
    becomes a shard set of composites."""
    endpoint: str = ""
    """Base URL of a running service that predicts. Empty: the model runs here, on Ray."""
    model: str = ""
    """The model: ``infill-base``, ``spn@champion``, ``spn@3`` or a checkpoint. Empty: the first
    model of the endpoint; without an endpoint ``infill-base``, which comes with the package."""
    masks: str = ""
    """Folder of masks (same stem, name_mask.png, or name_mask001.png as LaMa's data has it), or one
    mask file for all images. Empty: each mask lies beside its image (name_mask.png)."""
    generate_masks: bool = False
    """Whether to generate a mask for each image by ``recipe`` instead of reading mask files."""
    recipe: MaskConfig = field(
        default_factory=lambda: MaskConfig(
            recipe="irregular", min_hole_ratio=0.1, max_hole_ratio=0.3
        )
    )
    """How masks are generated, with ``generate_masks``."""
    seed: int = 0
    """Seed of generated masks."""
    mask_polarity: Polarity = "white"
    """The colour that marks the hole in mask files."""
    mask_threshold: int = HOLE_THRESHOLD
    """The highest level of a mask file, 0 to 254, that is not white; 0 suits labels 0, 1, 2."""
    mask_channel: Channel = "auto"
    """What has the levels of mask files: "brightness" ignores transparency, "alpha" is opacity,
    "red", "green" or "blue" is one colour. "auto" is brightness, unless opacity varies. Then the
    hole is paint on transparency, or what was erased from a photograph or a layer of one colour; a
    mask that shows neither is refused."""
    mode: Mode = "auto"
    """How an image larger than the largest tile is processed: "crop" around the holes, "resize"
    it, "refine" (resize, and add detail from tiles), "tile" it, or "subsample" it; "auto"
    chooses."""
    output_format: Literal["png", "jpeg", "webp", "same"] = "png"
    """File format of the composites. Only png and webp keep the known pixels exactly."""
    concurrency: int = 8
    """With an endpoint: number of concurrent requests."""
    api_key_file: str = ""
    """With an endpoint that needs an API key: the file that holds the key (a command line would
    show it to others)."""
    retry_timeout_s: float = 300.0
    """With an endpoint: total seconds of retries per request while the endpoint is busy or down."""
    batch_size: int = 8
    """Without an endpoint: number of tiles in one forward pass."""
    num_actors: int = 1
    """Without an endpoint: number of Ray actors that hold the model."""
    cpus_per_actor: float = 1.0
    """Without an endpoint: CPUs that each actor reserves. PyTorch uses as many threads, at least
    one."""
    price_per_hour: float = 0.0
    """Price per hour of all machines together, in any currency. If given, the cost is reported at
    the end."""
    use_gpu: bool = False
    """Without an endpoint: whether each actor gets one GPU."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """Size limits of images; only ``max_pixels`` applies, without an endpoint."""
    tiling: TilingConfig = field(default_factory=TilingConfig)
    """Without an endpoint: how images of any size are tiled."""
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    """Without an endpoint: the model registry."""

    def __post_init__(self) -> None:
        if self.generate_masks and self.masks:
            raise UserError("give --masks or --generate-masks, not both")
        _ = self.mask_rule  # Its own checks refuse an impossible threshold.
        for name in ("concurrency", "batch_size", "num_actors"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def mask_rule(self) -> MaskRule:
        """Which pixels of a mask file are the hole; a generated mask is white there."""
        if self.generate_masks:
            return MaskRule()
        return MaskRule(
            polarity=self.mask_polarity,
            threshold=self.mask_threshold,
            channel=self.mask_channel,
        )

    @property
    def local_model(self) -> str:
        """The model without an endpoint."""
        return self.model or DEFAULT

    def format_of(self, name: str) -> Format:
        """Return the format of an image's composite."""
        if self.output_format != "same":
            return self.output_format
        return _FORMATS.get("." + name.rsplit(".", 1)[-1].lower(), "png")
