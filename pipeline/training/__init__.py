"""The loop every worker runs, and its launch over the cluster.

A run is a folder (or s3:// prefix): started again, it goes on from its newest undamaged checkpoint,
with any number of workers, because the samples of a step depend on nothing but the data, the seed
and the step.

One step, from the top: ``driving.py`` on the driver, ``loop.py`` on every worker.
"""

from pipeline.training.building import Average, build_objective, with_local_weights
from pipeline.training.config import TrainConfig, TrainResult
from pipeline.training.driving import launch, resolve, summary, train
from pipeline.training.judging import as_seen_in_validation
from pipeline.training.loop import NonFiniteLossError
from pipeline.training.place import Place
from pipeline.training.runs import SCORE, best, find_sets

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
