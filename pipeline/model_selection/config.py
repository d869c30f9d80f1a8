"""The configuration of model selection: search, metrics, limits."""

from dataclasses import dataclass, field

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.network_config import NetworkConfig
from infill.pipeline.masks import HOLE_RATIO_BUCKETS, MaskConfig
from infill.pipeline.registry import RegistryConfig


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """A finished search, the photographs it is evaluated on, and what counts."""

    search: str
    """The search's folder or s3:// prefix."""
    shards: str
    """The test set on which every trial is evaluated."""
    out: str = ""
    """Where evaluations, table and page go; ``SEARCH/choice`` if empty."""
    metric: str = "hole_psnr"
    """What decides, among the trials that pass."""
    guards: tuple[str, ...] = ()
    """Such as ``ssim=0.005``: no worse than the champion's by more than that."""
    champion: str = ""
    """A model's name in the registry, whose champion the guards compare with; or a checkpoint."""
    max_parameters: int = 0
    """Of the generator; 0 for no bound."""
    max_latency_ms: float = 0.0
    """To fill one picture of the training's size with one thread; 0 for no bound."""
    masks: MaskConfig = field(default_factory=lambda: MaskConfig(recipe="irregular"))
    """The recipe of the holes."""
    buckets: tuple[tuple[float, float], ...] = HOLE_RATIO_BUCKETS
    """Ranges of hole ratio; every photograph meets a mask from each."""
    num_images: int | None = None
    """Take the first so many photographs only; all if None."""
    num_actors: int = 1
    """Processes at work; with 0, this one, without Ray."""
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    """Where the champion is found."""

    def __post_init__(self) -> None:
        from infill.pipeline.metrics.metric_registry import METRICS

        known = {metric.name for metric in METRICS}
        if self.metric not in known:
            raise UserError(f"metric is one of {', '.join(sorted(known))}, not {self.metric!r}")
        if self.guards and not self.champion:
            raise UserError("guards compare with a champion: name it with --champion")
        for text in self.guards:
            name, _ = guard(text)
            if name not in known:
                raise UserError(f"guard {text!r}: there is no metric {name!r}")
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
    """How the rows of a paper's table are measured."""

    test_shards: str = ""
    """The test set; the ``test`` folder beside the training set if empty."""
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    """Weights of the networks behind FID and LPIPS."""
    num_actors: int = 1
    """Most processes at work; with 0, this one, without Ray."""
    gpus_per_actor: float = 0.0
    """GPUs of each."""
