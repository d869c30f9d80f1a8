"""The configuration of an inspection."""

from dataclasses import dataclass, field

from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """What to look at."""

    shards: str
    """Folder or s3:// prefix of a finished shard set, or the tars of a WebDataset by name."""
    run: str = ""
    """A training run or one of its checkpoints, whose data settings replace those below."""
    sample: str = ""
    """Key of the one sample to show; a sheet of many if empty."""
    epoch: int = 0
    """How often training had gone through the set before."""
    num_samples: int = 24
    """Samples on the sheet, the first in the order of that epoch."""
    out: str = "runs/inspection/sheet.png"
    """Where the sheet goes."""
    data: BatchConfig = field(
        default_factory=lambda: BatchConfig(
            crop="centre_square", image_size_px=128, horizontal_flip=False
        )
    )
    """What is done to a sample; its own ``shards`` is not read."""

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        if self.num_samples < 1 or self.epoch < 0:
            raise UserError(
                "num_samples must be at least 1 and epoch at least 0, found "
                f"{self.num_samples} and {self.epoch}"
            )
