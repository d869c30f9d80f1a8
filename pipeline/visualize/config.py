"""The configuration of a visualization."""

from dataclasses import dataclass, field

from infill.pipeline.masks import MaskConfig


@dataclass(frozen=True, kw_only=True)
class VisualizeConfig:
    """Whose thoughts, about which photograph."""

    checkpoint: str = ""
    """A checkpoint, or a run, whose newest is taken."""
    image: str = ""
    """The photograph: a path or s3:// address."""
    mask: str = ""
    """Its mask, white in the hole, of the same size; drawn by ``masks`` if empty."""
    masks: MaskConfig = field(default_factory=lambda: MaskConfig(recipe="centre"))
    """The hole, if no mask is given."""
    short_side_px: int = 0
    """Size at which the network sees it; 0 for the side it was trained on."""
    out: str = "runs/explained"
    """Folder for the pictures."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, ..."""
