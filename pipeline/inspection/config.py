"""The configuration of an inspection."""

from dataclasses import dataclass, field

from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig

OVERVIEW = BatchConfig(crop="centre_square", image_size_px=128, horizontal_flip=False)
"""Data settings that show most of every sample."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """The samples to show, and the data settings they are shown with."""

    shards: str
    """Folder or s3:// prefix of a finished shard set, or the tars of a WebDataset by name."""
    preset: str = ""
    """A training preset such as ``spn-cpu`` or ``madf-places2``, whose data settings are the
    defaults of those below."""
    run: str = ""
    """A training run, or one of its checkpoints, whose data settings replace those below."""
    sample: str = ""
    """Key of the one sample to show. Empty shows a sheet of many."""
    epoch: int = 0
    """The epoch whose crops, augmentations and masks are shown, from 0."""
    num_samples: int = 24
    """Number of samples on the sheet, the first in the order of that epoch."""
    out: str = "runs/inspection/sheet.png"
    """File for the sheet."""
    data: BatchConfig = field(default_factory=lambda: OVERVIEW)
    """The data settings; their own ``shards`` is ignored."""

    def __post_init__(self) -> None:
        """Refuse impossible numbers, and settings that a run would replace."""
        if self.run and (self.preset or self.data != OVERVIEW):
            raise UserError(
                "a run decides its data settings itself: leave out --run, or --preset and --data"
            )
        if self.num_samples < 1 or self.epoch < 0:
            raise UserError(
                "num_samples must be at least 1 and epoch at least 0, found "
                f"{self.num_samples} and {self.epoch}"
            )
