"""Train a model on Ray Train with DDP.

A run is a folder (or s3:// prefix): started again, it goes on from its newest undamaged checkpoint,
with any number of workers, because the samples of a step depend on nothing but the data, the seed
and the step.

One step, from the top: ``driving.py`` on the driver, ``loop.py`` on every worker.
"""

from pipeline.training.build import Average, build_objective, with_local_weights
from pipeline.training.config import TrainConfig, TrainResult
from pipeline.training.distributed import Place
from pipeline.training.launcher import launch, resolve, summary, train
from pipeline.training.run_dir import SCORE, best, find_sets
from pipeline.training.train_loop import NonFiniteLossError
from pipeline.training.validation import as_seen_in_validation

__all__ = [
    "SCORE",
    "Average",
    "NonFiniteLossError",
    "Place",
    "TrainConfig",
    "TrainResult",
    "as_seen_in_validation",
    "best",
    "build_objective",
    "find_sets",
    "launch",
    "resolve",
    "summary",
    "train",
    "with_local_weights",
]
