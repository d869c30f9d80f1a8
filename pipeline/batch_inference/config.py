"""The configuration of batch inference."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from infill.pipeline.errors import UserError
from infill.pipeline.images import Format
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.registry import RegistryConfig
from infill.pipeline.serving.limits import LimitsConfig

FAILURES = "failures.jsonl"
SETTINGS = "batch.json"
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "same": ""}
_FORMATS: dict[str, Format] = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


@dataclass(frozen=True, kw_only=True)
class BatchInferenceConfig:
    """Which pictures to fill, with which masks, by whom."""

    folder: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FOLDER")]]
    """Pictures: a folder, with folders inside, or an s3:// prefix; or a shard set."""
    out: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OUT")]]
    """Where the composites go, under the same names; a shard set of them, for a shard set."""
    endpoint: str = ""
    """Base URL of a running service; without it the model runs here, on Ray."""
    model: str = ""
    """``spn@champion``, ``spn@3`` or a checkpoint; the endpoint's first model if empty."""
    masks: str = ""
    """Folder of masks (same stem, or name_mask.png), or one mask for all; beside the pictures
    (name_mask.png) if empty."""
    draw: bool = False
    """Generate a mask for each image by ``recipe`` instead."""
    recipe: MaskConfig = field(
        default_factory=lambda: MaskConfig(
            recipe="irregular", min_hole_ratio=0.1, max_hole_ratio=0.3
        )
    )
    """The masks to generate."""
    seed: int = 0
    """Seed of generated masks."""
    mask_polarity: Literal["white", "black"] = "white"
    """What marks the hole in mask files."""
    mode: Literal["auto", "crop", "resize", "tile", "subsample"] = "auto"
    """How large pictures meet the network."""
    output_format: Literal["png", "jpeg", "webp", "same"] = "png"
    """Of the composites; only png and webp keep known pixels exactly."""
    concurrency: int = 8
    """Requests under way at once, with an endpoint."""
    api_key_file: str = ""
    """Holds the key for the endpoint, if it asks for one; what stands on a command line is seen by
    others."""
    patience_s: float = 300.0
    """How long to try again when the endpoint is busy or away."""
    batch_size: int = 8
    """Canvases in one pass through the network, without an endpoint."""
    num_actors: int = 1
    """Processes that hold the model, without an endpoint."""
    cpus_per_actor: float = 1.0
    """CPUs of each of them; it computes with as many threads, at least one."""
    price_per_hour: float = 0.0
    """Of all machines together, in any currency, for the cost that is reported at the end."""
    use_gpu: bool = False
    """One GPU for each of them."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """``max_pixels`` counts, without an endpoint."""
    canvas: TilingConfig = field(default_factory=TilingConfig)
    """How images of any size meet the network, without an endpoint."""
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    """Where versions are kept, without an endpoint."""

    def __post_init__(self) -> None:
        if self.draw and self.masks:
            raise UserError("give --masks or --draw, not both")
        if not self.endpoint and not self.model:
            raise UserError("give --endpoint URL, or --model such as spn@champion")
        for name in ("concurrency", "batch_size", "num_actors"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def format_of(self, name: str) -> Format:
        """Return the format of a picture's composite."""
        if self.output_format != "same":
            return self.output_format
        return _FORMATS.get("." + name.rsplit(".", 1)[-1].lower(), "png")
