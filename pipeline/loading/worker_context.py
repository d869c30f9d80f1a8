"""The share of each step that belongs to one worker."""

from dataclasses import dataclass

from infill.pipeline.errors import UserError
from infill.pipeline.loading.config import BatchConfig
from infill.pipeline.loading.sampler import StatelessSampler
from infill.pipeline.masks import number_for


@dataclass(frozen=True, kw_only=True)
class WorkerShare:
    """Rank and world size of a stream, and its configuration."""

    config: BatchConfig
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        """Refuse unequal slices: their means would not average to the mean over the batch."""
        if self.config.batch_size % self.world_size:
            raise UserError(
                f"batch_size must be a multiple of the number of workers, found "
                f"{self.config.batch_size} for {self.world_size} workers"
            )

    @property
    def slice_size(self) -> int:
        """Samples per step of this worker."""
        return self.config.batch_size // self.world_size

    def visits(self, order: StatelessSampler, step: int) -> list[tuple[int, int, int]]:
        """Return this worker's samples of a step: row, epoch and mask number."""
        size, each = self.config.batch_size, self.config.masks_per_image
        rows = order.batch(step, size, self.rank, self.world_size, each)
        slots = order.slots(size, self.rank, self.world_size).tolist()
        return [(row, epoch, slot % each) for slot, (epoch, row) in zip(slots, rows, strict=True)]

    def seed(self, step: int) -> int:
        """Return the seed of a batch, below 2^63."""
        return number_for("batch", self.config.seed, step, self.rank) % 2**63
