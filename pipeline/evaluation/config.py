"""The configuration of an evaluation."""

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from infill.models.config import Subsampling
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.network_config import NetworkConfig
from infill.pipeline.evaluation.protocols import (
    Crop,
    Group,
    Protocol,
    load_protocol,
    range_name,
    ratio_groups,
    with_mask_files,
)
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import HOLE_RATIO_BUCKETS, MaskConfig

if TYPE_CHECKING:
    from infill.pipeline.metrics.metric_registry import Metric


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """A checkpoint, a test set, and the masks laid over it."""

    checkpoint: str
    """A checkpoint, or a run whose newest checkpoint is taken; a folder or s3:// address."""
    shards: str
    """The test set: a folder or s3:// prefix that ``jobs/make_shards.py`` has written; or the tars
    of any WebDataset by name, such as 's3://bucket/{00000..00009}.tar', read once before."""
    image_member: str = ""
    """For such tars: which member of a sample is its image, as ``--data.image-member`` of a
    training."""
    out: str = "runs/evaluation"
    """Folder or s3:// prefix for rows, pairs, scores and pictures."""
    pairs: str = ""
    """A pairs.parquet of another evaluation, to meet the very same holes; it decides masks, groups
    and size."""
    protocol: str = ""
    """A paper's way of measuring, such as "madf-places2"; it decides masks, size and metrics."""
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
    crop: Crop = "centre"
    """How it becomes square: a window of that size from the middle, the largest square in the
    middle resized, or all of it resized without regard to its shape. "original": it stays as it
    is, of any size and shape, and masks are generated at that size."""
    subsampling: Subsampling = field(default_factory=Subsampling)
    """How the network sees frames larger than it was made for; a protocol has its own way unless
    ``side_px`` is given."""
    baselines: tuple[str, ...] = ("mean-fill", "telea", "navier-stokes")
    """What the network is compared with, on the same pairs."""
    metrics: tuple[str, ...] = ()
    """Further metrics by name, such as "grey_l1" or "ms_ssim", beside those always measured."""
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    """Weights of the networks behind FID, KID, IS and LPIPS, which need them."""
    samples: int = 1
    """Samples per pair, of probabilistic networks: the one of highest PSNR counts."""
    examples: int = 6
    """Pairs shown in the grid of examples."""
    batch_size: int = 8
    """Pairs the network fills at once."""
    num_actors: int = 1
    """Most processes at work; fewer if the cluster has fewer CPUs or GPUs to give. With 0, this
    process does it, without Ray."""
    cpus_per_actor: int = 1
    """CPUs, and threads, of each."""
    gpus_per_actor: float = 0.0
    """GPUs of each: 0 for the CPU, 1 or a fraction to share one."""
    seed: int = 0
    """Of the masks and of the intervals' resampling."""

    def __post_init__(self) -> None:
        """Refuse what cannot be evaluated; each bucket's masks are checked as well."""
        for name in _AT_LEAST_ONE:
            _require(getattr(self, name) >= 1, f"{name} must be at least 1: {getattr(self, name)}")
        for name in ("num_images", "image_size_px"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1: {value}")
        _require(self.num_actors >= 0, f"num_actors must not be negative: {self.num_actors}")
        gpus = self.gpus_per_actor
        _require(gpus >= 0, f"gpus_per_actor must not be negative: {gpus}")
        _require(
            len(set(self.buckets)) == len(self.buckets), f"buckets are repeated: {self.buckets}"
        )
        if self.baselines:
            from infill.pipeline.baselines import load_baseline

            for name in self.baselines:
                load_baseline(name)
        if self.masks.curriculum_steps:
            raise UserError("evaluation: masks.curriculum_steps must be 0; nothing is trained here")
        _require(
            self.crop != "original" or self.image_size_px is None,
            "images stay of their original size; leave out image_size_px or crop",
        )
        if self.protocol:
            self._leave_to(f"the protocol {self.protocol}", _DECIDED_BY_PROTOCOL)
        if self.pairs:
            self._leave_to(f"the file of pairs {self.pairs}", _DECIDED_BY_PAIRS)
        _require(
            self.setting.samples == 1 or not self.setting.subsampling.side_px,
            "several samples need whole frames; leave out subsampling.side_px or samples",
        )
        assert self.setting.groups
        assert self.measured

    @property
    def reading(self) -> BatchConfig:
        """How the test set is read."""
        return BatchConfig(image_member=self.image_member)

    @property
    def setting(self) -> Protocol:
        """The protocol, or one made of the fields that stand in its place."""
        if self.protocol:
            return self._published_setting(load_protocol(self.protocol))
        own = Group(name=range_name(self.masks), masks=self.masks)
        return Protocol(
            name="",
            paper="",
            about="",
            differs="",
            groups=ratio_groups(self.masks, self.buckets) or (own,),
            metrics=self.metrics,
            image_size_px=self.image_size_px,
            crop=self.crop,
            samples=self.samples,
            subsampling=self.subsampling,
        )

    @property
    def groups(self) -> tuple[Group, ...]:
        """The columns of the table, in order."""
        return self.setting.groups

    @property
    def measured(self) -> "tuple[Metric, ...]":
        """What is measured on every composite."""
        from infill.pipeline.metrics.metric_registry import OF_NETWORKS, OF_SETS, chosen_metrics

        names = [name for name in self.setting.metrics if name not in OF_NETWORKS]
        return chosen_metrics([*names, *(n for n in self.networks.given if n not in OF_SETS)])

    def _published_setting(self, protocol: Protocol) -> Protocol:
        if self.subsampling.side_px:
            protocol = replace(protocol, subsampling=self.subsampling)
        if not self.masks.folder:
            return protocol
        folder, white_is_hole = self.masks.folder, self.masks.white_is_hole
        groups = [with_mask_files(group, folder, white_is_hole) for group in protocol.groups]
        return replace(protocol, groups=tuple(groups))

    def _leave_to(self, who: str, decided: tuple[str, ...]) -> None:
        """A value given for what is decided elsewhere would silently be ignored: refuse it."""
        files = MaskConfig(folder=self.masks.folder, white_is_hole=self.masks.white_is_hole)
        _require(self.masks == files, f"of masks, only folder and white_is_hole go with {who}")
        for one in fields(self):
            if one.name in decided and getattr(self, one.name) != one.default:
                raise UserError(f"{who} decides {one.name}; leave out one of the two")


_AT_LEAST_ONE = (
    *("pairs_per_image", "batch_size", "cpus_per_actor"),
    *("examples", "samples"),
)
_DECIDED_BY_PROTOCOL = ("buckets", "image_size_px", "crop", "metrics", "samples")
_DECIDED_BY_PAIRS = ("protocol", "buckets", "image_size_px", "num_images", "pairs_per_image")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(f"evaluation: {sentence}")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Finished evaluations over the same pairs, the first being what others are held against."""

    evaluations: tuple[str, ...]
    """Folders that ``jobs/evaluate.py`` wrote; give the later ones the --pairs of the first."""
    baselines: tuple[str, ...] = ()
    """Baselines of the first evaluation to compare as well, by name."""
    out: str = "runs/comparison"
    """Folder or s3:// prefix for the page and the figures."""
    cases: int = 3
    """Pairs shown where each wins most over the first, and as many where it loses most."""
    seed: int = 0
    """Of the intervals' resampling."""

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to compare."""
        if len(self.evaluations) + len(self.baselines) < 2:
            raise UserError(
                "compare needs two evaluations, or one and a baseline: give --evaluations"
            )
        if self.cases < 1:
            raise UserError(f"cases must be at least 1: {self.cases}")
