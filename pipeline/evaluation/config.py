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
    of_files,
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
    """A checkpoint, a test set, and the masks of the evaluation."""

    checkpoint: str
    """The checkpoint, a run whose newest checkpoint is used, or ``infill-base``; a folder or s3://
    address."""
    shards: str
    """The test set: folder or s3:// prefix of a shard set of ``jobs/make_shards.py``; or the tars
    of any WebDataset by name, such as 's3://bucket/{00000..00009}.tar', which are read once to
    index them."""
    image_member: str = ""
    """For tars without a manifest whose samples have several images: the member to use, as
    ``--data.image-member`` of a training."""
    out: str = "runs/evaluation"
    """Folder or s3:// prefix for rows, pairs, scores and images."""
    pairs: str = ""
    """A pairs.parquet of another evaluation, whose pairs of image and mask are used again. It
    replaces the settings of masks, buckets and size."""
    protocol: str = ""
    """Name of a paper's evaluation protocol, such as "madf-places2". It replaces the settings of
    masks, size and metrics."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How masks are generated. Their range of hole ratios applies only without buckets."""
    buckets: tuple[tuple[float, float], ...] = HOLE_RATIO_BUCKETS
    """Ranges (low, high] of hole ratio; every image gets a mask from each. None puts all in one
    column."""
    pairs_per_image: int = 1
    """Number of masks for each image and bucket."""
    num_images: int | None = None
    """Number of images, from the start of the test set; None evaluates all."""
    image_size_px: int | None = None
    """Side in pixels of the square that every image becomes; None uses the training size of the
    checkpoint."""
    crop: Crop = "centre"
    """How an image becomes square: "centre" cuts a window of that size, "centre_square" resizes the
    largest square, "squash" resizes the whole image without regard to its shape. "original" keeps
    every image's own size and shape and generates masks at that size."""
    subsampling: Subsampling = field(default_factory=Subsampling)
    """How images larger than the network was trained on are inpainted. A protocol has its own way
    unless ``side_px`` is given."""
    baselines: tuple[str, ...] = ("mean-fill", "telea", "navier-stokes")
    """Classical methods that are evaluated on the same pairs: "mean-fill", "telea" and
    "navier-stokes" of OpenCV, and "patchmatch", which is slower."""
    metrics: tuple[str, ...] = ()
    """Names of further metrics, such as "grey_l1" or "ms_ssim", beside those that are always
    measured."""
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    """Weights of the networks that FID, KID, IS and LPIPS need."""
    samples: int = 1
    """Number of samples per pair of a probabilistic network; the sample with the highest PSNR
    counts."""
    examples: int = 6
    """Number of pairs in the grid of examples."""
    batch_size: int = 8
    """Number of pairs in one forward pass."""
    num_actors: int = 1
    """Maximum number of Ray actors; there are fewer if the cluster has fewer CPUs or GPUs. 0
    evaluates in this process, without Ray."""
    cpus_per_actor: int = 1
    """CPUs that each actor reserves, and its number of threads."""
    gpus_per_actor: float = 0.0
    """GPUs that each actor reserves: 0 for the CPU, 1, or a fraction to share one."""
    seed: int = 0
    """Seed of the masks and of the bootstrap intervals."""

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
        _ = self.setting.groups  # Both raise for what cannot be measured.
        _ = self.measured

    @property
    def reading(self) -> BatchConfig:
        """How the test set is read."""
        return BatchConfig(image_member=self.image_member)

    @property
    def setting(self) -> Protocol:
        """The protocol, or one made of the fields that replace it."""
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
        """The metrics of every composite."""
        from infill.pipeline.metrics.metric_registry import OF_NETWORKS, OF_SETS, chosen_metrics

        names = [name for name in self.setting.metrics if name not in OF_NETWORKS]
        return chosen_metrics([*names, *(n for n in self.networks.given if n not in OF_SETS)])

    def _published_setting(self, protocol: Protocol) -> Protocol:
        if self.subsampling.side_px:
            protocol = replace(protocol, subsampling=self.subsampling)
        if not self.masks.folder:
            return protocol
        groups = [with_mask_files(group, self.masks) for group in protocol.groups]
        return replace(protocol, groups=tuple(groups))

    def _leave_to(self, setting: str, decided: tuple[str, ...]) -> None:
        """A value given for what is decided elsewhere would silently be ignored: refuse it."""
        files = of_files(MaskConfig(), self.masks)
        _require(
            self.masks == files,
            "of masks, only folder, published_set, polarity, threshold and channel go with "
            f"{setting}",
        )
        for one in fields(self):
            if one.name in decided and getattr(self, one.name) != one.default:
                raise UserError(f"{setting} decides {one.name}; leave out one of the two")


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
    """Finished evaluations of the same pairs; the others are compared with the first."""

    evaluations: tuple[str, ...]
    """Folders of ``jobs/evaluate.py``; evaluate the later ones with the --pairs of the first."""
    baselines: tuple[str, ...] = ()
    """Names of baselines of the first evaluation that are compared as well."""
    out: str = "runs/comparison"
    """Folder or s3:// prefix for the page and its images."""
    cases: int = 3
    """Number of pairs to show where each evaluation gains most over the first, and as many where it
    loses most."""
    seed: int = 0
    """Seed of the bootstrap intervals."""

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to compare."""
        if len(self.evaluations) + len(self.baselines) < 2:
            raise UserError(
                "compare needs two evaluations, or one and a baseline: give --evaluations"
            )
        if self.cases < 1:
            raise UserError(f"cases must be at least 1: {self.cases}")
