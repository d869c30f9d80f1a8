"""The configuration of a training, and its result."""

from dataclasses import dataclass, field
from typing import Literal

from infill.models.config import ModelConfig
from infill.pipeline.loading import BatchConfig
from infill.pipeline.tracking import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training: a model, its data, and how long on how many workers."""

    model: ModelConfig
    """The paper's numbers."""
    data: BatchConfig
    """The shards and what is done to a sample; its ``shards`` may hold a train and a val set."""
    storage: str = "runs/train"
    """The run's folder or s3:// prefix; an unfinished run found there is gone on with."""
    steps: int = 1000
    """Global steps; every worker takes its share of each."""
    num_workers: int = 2
    """Training processes on the cluster; 0 trains in this process, without Ray."""
    min_workers: int = 0
    """Fewer processes that will do while the cluster has no room for all; 0 waits for all. The
    batches stay the same; data.batch_size must suit every number in between."""
    cpus_per_worker: float = 1.0
    """Logical CPUs a worker reserves; it computes with as many threads, at least one."""
    use_gpu: bool = False
    """One GPU for each worker (NCCL) instead of CPUs only (gloo)."""
    worker_labels: tuple[str, ...] = ()
    """Labels that the nodes of workers must have, such as ``ray.io/accelerator-type=H100``."""
    channels_last: bool = True
    """Whether weights and maps are laid out with channels innermost: a tenth to a fifth faster on
    CPUs, and what tensor cores read. Results agree to the order of sums."""
    seed: int = 0
    """Of the initial weights and of whatever the networks draw; the data has its own."""
    ema_decay: float = 0.0
    """Per step, of the averaged generator that is validated and served; 0 keeps none."""
    init_from: str = ""
    """Checkpoint or run whose weights to start from (fine-tuning); "" starts at random."""
    resume_from: str = ""
    """Checkpoint to go on from with optimisers, step and all, where this run has none of its own;
    unlike in a run that goes on, the model's weights of losses and learning rates may be others
    (population based training)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What convolutions and matrix products compute in during training; "bfloat16" by autocast:
    scores, statistics, losses, critics and the weights themselves stay in float32."""
    compile: bool = False
    """Whether the generator is compiled: minutes at the start, which long runs on GPUs earn back.
    """
    recompute: bool = False
    """Whether the generator's blocks compute their maps again in the backward pass (activation
    checkpointing): less memory for about a fourth more arithmetic."""
    accumulate: int = 1
    """Parts a worker's share of a batch is cut into, to hold one at a time in memory."""
    max_gradient_norm: float = 0.0
    """A network's gradients are scaled down to this L2 norm; 0 leaves them (as published)."""
    report_every_steps: int = 10
    """Steps between two progress lines."""
    save_every_steps: int = 100
    """Steps between two checkpoints, each with validation scores; the last step saves too."""
    sample_every_steps: int = 100
    """Steps between two sample grids."""
    keep_checkpoints: int = 2
    """The newest ones that are kept, beside the best."""
    validation_samples: int = 64
    """How many samples of the val set are scored at each checkpoint."""
    dry_run: bool = False
    """Only say what would be done, and what it needs."""
    max_failures: int = 3
    """How often the group of workers is rebuilt after one of them died."""
    collective_timeout_s: float = 600.0
    """How long workers wait for one of them before the group is rebuilt."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Where the run's numbers are written down."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, not {self.num_workers}")
        if self.min_workers and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(
                f"min_workers must be 0, or at least 1 and at most num_workers {self.num_workers}: "
                f"{self.min_workers}"
            )
        for label in self.worker_labels:
            if not all(label.partition("=")[::2]):
                raise ValueError(f"worker_labels are written name=value, not {label!r}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        for workers in range(self.min_workers or self.num_workers, self.num_workers + 1):
            if self.data.batch_size % max(workers, 1):
                raise ValueError(
                    f"data.batch_size {self.data.batch_size} is the global batch and must be "
                    f"a multiple of num_workers {workers}"
                )
        share = self.data.batch_size // max(self.num_workers, 1)
        if self.accumulate < 1 or share % self.accumulate:
            raise ValueError(
                f"accumulate must divide each worker's {share} samples equally, "
                f"which {self.accumulate} does not"
            )
        if self.compile and self.recompute:
            raise ValueError("recompute does not go with compile, which decides by itself")
        if self.max_gradient_norm < 0:
            raise ValueError(f"max_gradient_norm must not be negative: {self.max_gradient_norm}")
        if self.data.image_size_px % self.model.size_multiple:
            raise ValueError(
                f"data.image_size_px {self.data.image_size_px} must be a multiple of "
                f"{self.model.size_multiple} for {self.model.architecture}"
            )
        for name in ("report_every_steps", "save_every_steps", "sample_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training left behind."""

    run: str
    """The run's folder."""
    checkpoint: str
    """The best checkpoint by validation :data:`SCORE`; the last one without a val set."""
    scores: dict[str, float]
    """That checkpoint's validation scores."""
    step: int
    """The last step taken."""
    seconds: float
    """Spent in this call."""
    reused: bool
    """Whether the run was complete already."""
