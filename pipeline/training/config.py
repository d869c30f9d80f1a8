"""The configuration of a training, and its result."""

from dataclasses import dataclass, field
from typing import Literal

from infill.models.config import ModelConfig
from infill.models.schedules import factor
from infill.pipeline.loading import BatchConfig
from infill.pipeline.tracking import TrackingConfig

OFF: Literal["off"] = "off"
"""The value of ``scale_batch`` that leaves the batch as it is."""
STEPS_TRIED = 100
"""Number of steps at which a schedule is tried before the training."""


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
    same, so numbers of workers that cannot share data.batch_size equally are left out."""
    scale_batch: Literal["off", "linear", "square_root"] = "off"
    """Whether data.batch_size is raised to what num_workers can share equally. With a batch k times
    as large, learning rates grow k times ("linear") or by the square root of k ("square_root"; for
    Adam), after a warm-up over the first 5 % of the steps, and steps and schedules are divided by
    k. "off" refuses a batch that the workers cannot share."""
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
    tf32: Literal["off", "convolutions", "all"] = "convolutions"
    """What GPUs compute with the 10-bit mantissas of TF32 where the type is float32: nothing,
    convolutions (PyTorch's default), or matrix products, too ("all")."""
    cudnn_benchmark: bool = False
    """Whether cuDNN tries its algorithms on the first batch and keeps the fastest. The choice, and
    with it the rounding, may differ from run to run."""
    deterministic: bool = False
    """Whether PyTorch, cuDNN and cuBLAS use deterministic algorithms, so that a run repeats to the
    bit on the same GPUs. It is slower. Operations that have none are named in the log."""
    sync_batch_norm: bool = False
    """Whether batch norms take their statistics from the samples of all workers (SyncBatchNorm); on
    GPUs only. Otherwise each worker takes its own samples', as the papers that train on several
    GPUs do."""
    static_graph: bool = False
    """Whether DDP plans the exchange of gradients after the first step for all others. Only for
    architectures whose steps are all alike, without accumulate; the results are the same."""
    compile: bool = False
    """Whether ``torch.compile`` compiles the generator. It takes minutes at the start, which pays
    off in long runs on GPUs."""
    cuda_graphs: bool = False
    """Whether the compiled generator's kernels are launched together, as CUDA graphs: worth it at
    small batches, where launches take the time. It needs compile and use_gpu, and more memory."""
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
    """Number of samples of the val set that each validation scores; 0 validates nothing and writes
    no sample grids."""
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
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, not {self.accumulate}")
        if self.scale_batch == OFF:
            self._require_equal_shares()
        if self.compile and self.recompute:
            raise ValueError("recompute does not go with compile, which decides by itself")
        if self.deterministic and self.cudnn_benchmark:
            raise ValueError(
                "deterministic does not go with cudnn_benchmark, which tries and picks"
            )
        if self.sync_batch_norm and not self.use_gpu:
            raise ValueError("sync_batch_norm needs use_gpu: PyTorch has it for GPUs only")
        if self.sync_batch_norm and self.compile:
            raise ValueError("sync_batch_norm does not go with compile")
        if self.static_graph and self.accumulate > 1:
            raise ValueError("static_graph does not go with accumulate: parts are not all alike")
        if self.cuda_graphs and not (self.compile and self.use_gpu):
            raise ValueError("cuda_graphs needs compile and use_gpu")
        if self.max_gradient_norm < 0:
            raise ValueError(f"max_gradient_norm must not be negative: {self.max_gradient_norm}")
        if self.data.image_size_px % self.model.size_multiple:
            raise ValueError(
                f"data.image_size_px {self.data.image_size_px} must be a multiple of "
                f"{self.model.size_multiple} for {self.model.architecture}"
            )
        self._require_labels()
        self._require_rates()
        if self.validation_samples < 0:
            raise ValueError(f"validation_samples must be 0 or more, not {self.validation_samples}")
        for name in ("report_every_steps", "save_every_steps", "sample_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def _require_labels(self) -> None:
        """Refuse a model that needs label maps without them, and label maps that no model reads."""
        if self.model.takes_labels and not self.data.label_maps:
            raise ValueError(
                f"this {self.model.architecture} (segmentation_guided) learns from label maps: "
                "give --data.label-maps, and shards that `jobs/make_shards.py --labels FOLDER` made"
            )
        if self.data.label_maps and not self.model.takes_labels:
            raise ValueError(
                f"data.label_maps reads label maps, which this {self.model.architecture} does not "
                "take: leave it off"
            )

    def _require_rates(self) -> None:
        """Refuse a schedule that fails later in the run, at some of its steps."""
        steps = {*range(0, self.steps, max(1, self.steps // STEPS_TRIED)), self.steps - 1}
        for role in ("generator", "discriminator"):
            for step in sorted(steps):
                factor(self.model.schedule_of(role), step, self.steps)

    def _require_equal_shares(self) -> None:
        batch, workers = self.data.batch_size, max(self.num_workers, 1)
        share, unshared = divmod(batch, workers)
        multiple = self.model.share_multiple
        advice = (
            f"; {_listed(self._sharing(1, batch))} workers can share it, or --scale-batch linear "
            "raises the batch with the learning rates and the schedules"
        )
        if unshared:
            raise ValueError(
                f"data.batch_size {batch} is the global batch and must be a multiple of "
                f"num_workers {workers}{advice}"
            )
        if share % self.accumulate:
            raise ValueError(
                f"accumulate must divide the {share} samples of each worker into equal parts, "
                f"which {self.accumulate} does not"
            )
        if share % (multiple * self.accumulate):
            raise ValueError(
                f"each of {workers} workers has {share} of the {batch} samples of data.batch_size, "
                f"and {self.model.architecture} cuts them into {multiple} equal parts{advice}"
            )

    def _sharing(self, least: int, most: int) -> tuple[int, ...]:
        """Return the numbers of workers, from ``least`` to ``most``, that share the batch."""
        parts = self.accumulate * self.model.share_multiple
        numbers = range(least, most + 1)
        return tuple(n for n in numbers if self.data.batch_size % (n * parts) == 0)

    @property
    def worker_numbers(self) -> tuple[int, ...]:
        """The numbers of workers that training may run on, smallest first.

        They lie between ``min_workers`` and ``num_workers``, and share the batch in equal parts.
        """
        if not self.min_workers:
            return (self.num_workers,)
        return self._sharing(self.min_workers, self.num_workers)


def _listed(numbers: tuple[int, ...]) -> str:
    words = [str(number) for number in numbers] or ["no number of"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


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
