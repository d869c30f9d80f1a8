"""Train a model on Ray Train with DDP.

A run is a directory or an s3:// prefix. Started again, it resumes from its latest intact
checkpoint, with any number of workers: the samples of a step depend only on the data, the seed and
the step.

Start reading at ``launcher.py`` (on the driver) and ``train_loop.py`` (on every worker).
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.training.batch_scaling import scaled, scaling_line
    from infill.pipeline.training.build import (
        ExponentialMovingAverage,
        build_objective,
        require_weights,
        with_local_weights,
    )
    from infill.pipeline.training.config import TrainConfig, TrainResult
    from infill.pipeline.training.distributed import WorkerContext
    from infill.pipeline.training.launcher import launch, resolve, summary, train
    from infill.pipeline.training.run_dir import SCORE, best, find_sets, require_same_run
    from infill.pipeline.training.step_checks import NonFiniteLossError

__all__ = [
    "SCORE",
    "ExponentialMovingAverage",
    "NonFiniteLossError",
    "WorkerContext",
    "TrainConfig",
    "TrainResult",
    "best",
    "build_objective",
    "find_sets",
    "launch",
    "require_same_run",
    "require_weights",
    "resolve",
    "scaled",
    "scaling_line",
    "summary",
    "train",
    "with_local_weights",
]

__getattr__ = lazy_names(
    __name__,
    {
        "batch_scaling": ("scaled", "scaling_line"),
        "build": (
            "ExponentialMovingAverage",
            "build_objective",
            "require_weights",
            "with_local_weights",
        ),
        "config": ("TrainConfig", "TrainResult"),
        "distributed": ("WorkerContext",),
        "launcher": ("launch", "resolve", "summary", "train"),
        "run_dir": ("SCORE", "best", "find_sets", "require_same_run"),
        "step_checks": ("NonFiniteLossError",),
    },
)
