"""The configuration of model selection: search, metrics, limits."""

from dataclasses import dataclass, field

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.network_config import NetworkConfig
from infill.pipeline.masks import HOLE_RATIO_BUCKETS, MaskConfig
from infill.pipeline.registry import RegistryConfig


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """A finished search, the test set of its trials, and the criteria of the selection."""

    search: str
    """Folder or s3:// prefix of the finished search."""
    shards: str
    """The test set on which every trial is evaluated."""
    out: str = ""
    """Folder or s3:// prefix for evaluations, table and page; ``SEARCH/choice`` if empty."""
    metric: str = "hole_psnr"
    """The metric by which trials are ranked."""
    guards: tuple[str, ...] = ()
    """Regression limits such as ``ssim=0.005``: a trial whose score is worse than the champion's by
    more than that is rejected."""
    champion: str = ""
    """The model for the regression limits: a model's name in the registry, whose champion is used,
    or a checkpoint."""
    max_parameters: int = 0
    """Maximum number of generator parameters; 0 sets no limit."""
    max_latency_ms: float = 0.0
    """Maximum milliseconds per image of the training size on one thread; 0 sets no limit."""
    masks: MaskConfig = field(default_factory=lambda: MaskConfig(recipe="irregular"))
    """How masks are generated."""
    buckets: tuple[tuple[float, float], ...] = HOLE_RATIO_BUCKETS
    """Ranges (low, high] of hole ratio; every image gets a mask from each."""
    num_images: int | None = None
    """Number of images, from the start of the test set; None evaluates all."""
    num_actors: int = 1
    """Maximum number of Ray actors; 0 evaluates in this process, without Ray."""
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    """The registry of the champion."""

    def __post_init__(self) -> None:
        if self.guards and not self.champion:
            raise UserError("guards compare with a champion: name it with --champion")
        for text in self.guards:
            guard(text)
        if self.max_parameters < 0 or self.max_latency_ms < 0:
            raise UserError("max_parameters and max_latency_ms must not be negative")


def guard(text: str) -> tuple[str, float]:
    """Read a guard such as ``ssim=0.005``.

    Raises:
        UserError: if it is not of this form.
    """
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError as error:
        raise UserError(
            f"guard {text!r}: write metric=number, the loss that is allowed, such as ssim=0.005"
        ) from error


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """How the rows of a paper's table are evaluated."""

    test_shards: str = ""
    """The test set; empty uses the ``test`` folder beside the training set."""
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    """Weights of the networks that FID and LPIPS need."""
    num_actors: int = 1
    """Maximum number of Ray actors; 0 evaluates in this process, without Ray."""
    gpus_per_actor: float = 0.0
    """GPUs that each actor reserves; a fraction lets several share one."""
