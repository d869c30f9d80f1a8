"""What to evaluate, on which pairs, with how many hands."""

from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.baselines import load_baseline
from pipeline.config import UserError
from pipeline.masks import HOLE_RATIO_BUCKETS, MaskConfig


@dataclass(frozen=True, kw_only=True)
class Group:
    """A column of the table: the pairs whose masks one configuration draws."""

    name: str
    """As tables show it: "0.1-0.2" means hole ratios above 0.1, up to 0.2."""
    masks: MaskConfig
    in_all: bool = True
    """Whether its pairs count in the column "all"."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """A checkpoint, a test set, and the masks laid over it."""

    checkpoint: str
    """A checkpoint, or a run whose newest checkpoint is taken; a folder or s3:// address."""
    shards: str
    """The test set: a folder or s3:// prefix that ``jobs/make_shards.py`` has written."""
    out: str = "runs/evaluation"
    """Folder or s3:// prefix for rows, pairs, scores and pictures."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """The recipe of the holes; its range of hole ratios counts only without buckets."""
    buckets: tuple[tuple[float, float], ...] = HOLE_RATIO_BUCKETS
    """Ranges (low, high] of hole ratio; every image meets a mask from each. None: one column."""
    pairs_per_image: int = 1
    """Masks for each image and bucket."""
    num_images: int | None = None
    """Take the first so many images of the test set only; all if None."""
    image_size_px: int | None = None
    """Side of the square every image becomes; the checkpoint's training size if None."""
    crop: Literal["centre", "centre_square", "squash"] = "centre"
    """How it becomes square: a window of that size from the middle, the largest square in the
    middle resized, or all of it resized without regard to its shape."""
    baselines: tuple[str, ...] = ("mean-fill", "telea", "navier-stokes")
    """What the network is compared with, on the same pairs."""
    examples: int = 6
    """Pairs drawn in the grid of pictures."""
    batch_size: int = 8
    """Pairs the network fills at once."""
    num_actors: int = 1
    """Most processes at work; fewer if the cluster has fewer CPUs or GPUs to give."""
    cpus_per_actor: int = 1
    """CPUs, and threads, of each."""
    gpus_per_actor: float = 0.0
    """GPUs of each: 0 for the CPU, 1 or a fraction to share one."""
    seed: int = 0
    """Of the masks and of the intervals' resampling."""

    def __post_init__(self) -> None:
        """Refuse what cannot be evaluated; each bucket's masks are checked as well."""
        counts = ("pairs_per_image", "batch_size", "num_actors", "cpus_per_actor", "examples")
        for name in counts:
            _require(getattr(self, name) >= 1, f"{name} must be at least 1: {getattr(self, name)}")
        for name in ("num_images", "image_size_px"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1: {value}")
        gpus = self.gpus_per_actor
        _require(gpus >= 0, f"gpus_per_actor must not be negative: {gpus}")
        _require(
            len(set(self.buckets)) == len(self.buckets), f"buckets are repeated: {self.buckets}"
        )
        for name in self.baselines:
            load_baseline(name)
        if self.masks.curriculum_steps:
            raise UserError("evaluation: masks.curriculum_steps must be 0; nothing is trained here")
        assert self.groups

    @property
    def groups(self) -> tuple[Group, ...]:
        """The columns of the table, in order."""
        if not self.buckets:
            return (Group(name=_range(self.masks), masks=self.masks),)
        masks = [
            replace(self.masks, min_hole_ratio=low, max_hole_ratio=high)
            for low, high in self.buckets
        ]
        return tuple(Group(name=_range(config), masks=config) for config in masks)


def _range(masks: MaskConfig) -> str:
    return f"{masks.min_hole_ratio:g}-{masks.max_hole_ratio:g}"


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(f"evaluation: {sentence}")
