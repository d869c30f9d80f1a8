"""The configuration of a search, its trials and its result."""

from dataclasses import dataclass, field
from typing import Any, Literal

from infill.pipeline.errors import UserError
from infill.pipeline.training import TrainConfig
from infill.pipeline.tuning.algorithms import ALGORITHMS, Algorithm

Scale = Literal["cpu", "paper", "smoke"]
"""Presets of the trainings: 45 minutes on two cores, as published, or seconds."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """A hyperparameter search: the training, the search space, the algorithm and the limits."""

    train: TrainConfig
    """The training that every trial varies. ``train.storage`` is ignored: each trial has a folder
    in ``storage``."""
    space: str = "lambdas"
    """The search space: a paper's space or table by name, such as "spn-table3", or a .json, .yaml
    or .py file of dotted field names."""
    algorithm: str = "grid"
    """The search algorithm. "grid" runs every combination and "random" a random selection; "tpe" is
    Optuna's TPE, which learns from earlier trials; "asha" samples at random and stops the worse
    half of the trials at each doubling of their steps; "pbt" is population based training: at each
    validation the worst trials copy networks and optimizers of the best and change their values a
    little (it keeps all checkpoints)."""
    num_trials: int = 0
    """Number of combinations to try, evenly spread over a "grid". 0 tries all, which only "grid"
    can."""
    seeds: int = 1
    """Number of trainings of each combination; their seeds count up from ``train.seed``."""
    storage: str = "runs/sweep"
    """Folder or s3:// prefix for the trials' runs, the table of results and the plot."""
    concurrent_trials: int = 2
    """Number of trials that run at a time. Each process of a trial reserves
    ``train.cpus_per_worker`` CPUs."""
    gpus_per_trial: float = 0.0
    """GPUs that each trial reserves: 0, a whole number, or a fraction, with which several trials
    share a GPU and each may use that share of its memory. Several GPUs train data parallel, one
    process for each."""
    workers_per_trial: int = 0
    """Number of processes in which each trial trains data parallel. 0 is one for each of its GPUs,
    and one without GPUs. A trial starts when the cluster has room for all of its processes."""
    max_failures: int = 1
    """Number of times that a failed trial is retried before it is reported as failed."""
    max_hours: float = 0.0
    """Time limit of the search in hours: after it no trial starts and running trials are stopped. 0
    sets no limit."""
    max_gpu_hours: float = 0.0
    """The same limit for the GPU hours of all trials together; 0 sets no limit."""
    seed: int = 0
    """Seed of the choice of combinations."""

    def __post_init__(self) -> None:
        for name, least in (
            ("concurrent_trials", 1),
            ("seeds", 1),
            ("num_trials", 0),
            ("max_failures", 0),
            ("gpus_per_trial", 0),
            ("workers_per_trial", 0),
            ("max_hours", 0),
            ("max_gpu_hours", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.gpus_per_trial > 1 and self.gpus_per_trial != int(self.gpus_per_trial):
            raise ValueError(
                f"gpus_per_trial above 1 must be a whole number, not {self.gpus_per_trial:g}: each "
                "process of a trial takes one GPU"
            )
        if self.gpus_per_trial and self.workers_per_trial not in (0, self.trial_workers):
            raise ValueError(
                f"workers_per_trial must be 0 or {self.trial_workers} with gpus_per_trial "
                f"{self.gpus_per_trial:g}, not {self.workers_per_trial}: each process takes one GPU"
            )
        if self.algorithm not in ALGORITHMS:
            raise ValueError(
                f"there is no algorithm {self.algorithm!r}; there are: {', '.join(ALGORITHMS)}"
            )
        chosen = ALGORITHMS[self.algorithm]
        if not chosen.enumerates and not self.num_trials:
            raise ValueError(f"algorithm {self.algorithm!r} needs num_trials: how many to try")
        if not chosen.repeats and self.seeds > 1:
            raise ValueError(f"several seeds go with 'grid' and 'random', not {self.algorithm!r}")

    @property
    def trial_workers(self) -> int:
        """The number of processes of each trial."""
        if self.gpus_per_trial:
            return max(1, int(self.gpus_per_trial))
        return max(1, self.workers_per_trial)

    @property
    def trial_settings(self) -> dict[str, Any]:
        """The fields of a training that each trial takes from the search, by name.

        One process trains without Ray Train, whose workers take longer to start than a small trial.
        """
        workers = self.trial_workers
        return {
            "num_workers": workers if workers > 1 else 0,
            "min_workers": 0,
            "use_gpu": self.gpus_per_trial > 0,
        }

    @property
    def method(self) -> Algorithm:
        """The search algorithm that is named."""
        return ALGORITHMS[self.algorithm]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One combination of values with one seed, and its result."""

    name: str
    changes: dict[str, Any]
    """Field values by dotted name."""
    seed: int = 0
    label: str = ""
    """Label of the row of a paper's table that the trial reproduces, if any."""
    scores: dict[str, float] = field(default_factory=dict)
    """Validation scores of its best checkpoint; empty if it failed."""
    checkpoint: str = ""
    seconds: float = 0.0
    """Training time within this search."""
    reused: bool = False
    """Whether an earlier search had finished it."""
    steps: int = 0
    """Number of steps taken; fewer than configured if it was stopped early."""
    error: str = ""
    """Why it failed or did not finish; empty if it finished."""
    curve: dict[str, float] = field(default_factory=dict)
    """Its score at each validation before the last one, by step; for algorithms that stop trials
    early."""


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """All trials, best first."""

    trials: tuple[Trial, ...]
    seconds: float
    """Wall time of the whole search."""

    @property
    def best(self) -> Trial:
        """The trial with the highest validation score.

        Raises:
            UserError: if every trial failed.
        """
        if not self.trials or self.trials[0].error:
            first = self.trials[0].error if self.trials else "the space is empty"
            raise UserError(f"no trial of the search succeeded; the first error: {first}")
        return self.trials[0]
