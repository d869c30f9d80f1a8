"""The configuration of a visualization."""

from dataclasses import dataclass, field

from infill.pipeline.errors import UserError
from infill.pipeline.masks import MaskConfig


@dataclass(frozen=True, kw_only=True)
class VisualizeConfig:
    """The checkpoint, image and mask whose intermediate results are shown."""

    checkpoint: str = ""
    """The checkpoint, or a run whose newest checkpoint is used."""
    image: str = ""
    """The image: a path or s3:// address."""
    mask: str = ""
    """The mask: white in the hole, of the image's size. Empty generates one by ``masks``."""
    masks: MaskConfig = field(default_factory=lambda: MaskConfig(recipe="centre"))
    """How the mask is generated if none is given."""
    short_side_px: int = 0
    """Short side in pixels to which the image is resized; 0 uses the training size."""
    out: str = "runs/explained"
    """Folder for the images."""
    device: str = "cpu"
    """The device: cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        """Refuse a command line without a checkpoint or an image."""
        for name in ("checkpoint", "image"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: give the {name} to visualize")
