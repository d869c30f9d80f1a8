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
    """The settings of the architecture: widths, losses, learning rates. The defaults are the
    paper's."""
    data: BatchConfig
    """The dataset and how each sample is made from it. If ``shards`` holds a train and a val set,
    training uses both."""
    storage: str = "runs/train"
    """Folder or s3:// prefix of the run. If it holds an unfinished run, training resumes it."""
    steps: int = 1000
    """Number of training steps; each step uses one global batch."""
    num_workers: int = 2
    """Number of training processes (data parallel) on the Ray cluster; 0 trains in this process,
    without Ray."""
    min_workers: int = 0
    """Minimum number of workers (elastic training): training goes on with fewer than num_workers
    while the cluster lacks resources. 0 always waits for num_workers. The global batch stays the
    same, so data.batch_size must be a multiple of every number in between."""
    cpus_per_worker: float = 1.0
    """Logical CPUs that Ray reserves for each worker."""
    num_threads_per_worker: int = 0
    """CPU threads with which PyTorch computes in each worker. With 0, a worker on the cluster uses
    ``cpus_per_worker`` threads, at least one, and a training without Ray PyTorch's default."""
    use_gpu: bool = False
    """Whether each worker gets one GPU and gradients travel by NCCL. Otherwise workers use CPUs and
    gloo."""
    worker_labels: tuple[str, ...] = ()
    """Ray node labels that a node must have to run a worker, such as
    ``ray.io/accelerator-type=H100``."""
    channels_last: bool = True
    """Whether weights and feature maps use the channels_last memory format: 10 to 20 % faster on
    CPUs, and the layout of tensor cores. Results differ only by the order of sums."""
    seed: int = 0
    """Seed of the initial weights and of random layers; data.seed is the seed of the data."""
    ema_decay: float = 0.0
    """Decay per step of the EMA of the generator's weights, such as 0.999. The EMA is what
    validation and serving use; 0 keeps no EMA."""
    init_from: str = ""
    """Checkpoint or run whose weights training starts from (fine-tuning); optimizers and step start
    anew. Empty: random weights."""
    resume_from: str = ""
    """Checkpoint to resume from, with optimizers and step, if this run has no checkpoint of its
    own. Unlike a resumed run, it may have other loss weights and learning rates (population based
    training)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Data type of convolutions and matrix products in training. "bfloat16" is autocast: attention
    scores, statistics, losses, discriminators and the weights themselves stay in float32."""
    compile: bool = False
    """Whether ``torch.compile`` compiles the generator. It takes minutes at the start, which pays
    off in long runs on GPUs."""
    recompute: bool = False
    """Whether the backward pass computes the generator's blocks again (activation checkpointing).
    It saves memory and costs about a fourth more arithmetic."""
    accumulate: int = 1
    """Number of equal parts into which a worker cuts its share of a batch (gradient accumulation):
    more parts need less memory."""
    max_gradient_norm: float = 0.0
    """Maximum L2 norm of each network's gradients; larger ones are scaled down to it. 0 does not
    clip, as published."""
    report_every_steps: int = 10
    """Number of steps between two reports of losses and throughput."""
    save_every_steps: int = 100
    """Number of steps between two checkpoints. Each is validated; the last step always saves
    one."""
    sample_every_steps: int = 100
    """Number of steps between two image grids of the same validation samples."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep; the best one by validation is kept as well."""
    validation_samples: int = 64
    """Number of samples of the val set that each validation scores."""
    dry_run: bool = False
    """Whether to print the plan of the training and its estimated cost and memory, and not to
    train."""
    max_failures: int = 3
    """Number of times that Ray Train restarts the workers after one of them died; then the training
    fails."""
    collective_timeout_s: float = 600.0
    """Seconds that workers wait for one that does not answer before Ray Train restarts them all."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """The loggers: where losses, scores and images of the run go."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, not {self.num_workers}")
        if self.num_threads_per_worker < 0:
            raise ValueError(
                f"num_threads_per_worker must be 0 or more, not {self.num_threads_per_worker}"
            )
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
                f"accumulate must divide the {share} samples of each worker into equal parts, "
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
    """The result of a training."""

    run: str
    """Folder or s3:// prefix of the run."""
    checkpoint: str
    """The best checkpoint by validation :data:`SCORE`; the last one without a val set."""
    scores: dict[str, float]
    """That checkpoint's validation scores."""
    step: int
    """The last step taken."""
    seconds: float
    """Duration of this call."""
    reused: bool
    """Whether the run was complete before this call."""
