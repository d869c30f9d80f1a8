"""The configuration of a search, its trials and its result."""

from dataclasses import dataclass, field
from typing import Any, Literal

from infill.pipeline.errors import UserError
from infill.pipeline.training import TrainConfig

Scale = Literal["cpu", "paper", "smoke"]
"""Of the trainings: 45 minutes on two cores, as published, or seconds."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """A search: which values around which training, how they are chosen, and when to stop."""

    train: TrainConfig
    """The training that every trial varies; ``train.storage`` is not used."""
    space: str = "lambdas"
    """A paper's space or table ("spn-table3"), or a .json, .yaml or .py file of dotted names."""
    algorithm: Literal["grid", "random", "tpe", "asha", "pbt"] = "grid"
    """Every combination; some by chance; some by what earlier ones have scored (Optuna's TPE); some
    by chance, of which the worse half is stopped at each doubling of their steps (ASHA); or a
    population that trains on, the worst going over to the networks and optimisers of the best at
    each validation, with their values changed a little (PBT; all checkpoints are kept)."""
    num_trials: int = 0
    """Combinations to try, evenly spread over a "grid"; 0 tries all, which only "grid" can."""
    seeds: int = 1
    """Trainings of each combination, with seeds that count up from ``train.seed``."""
    storage: str = "runs/sweep"
    """The folder or s3:// prefix that gets one run per trial, the table and the plot."""
    concurrent_trials: int = 2
    """Trials at a time; each trains in one process and needs ``train.cpus_per_worker``."""
    gpus_per_trial: float = 0.0
    """GPUs of each; a fraction lets several share one."""
    max_failures: int = 1
    """How often a trial that failed is tried again before it is reported as failed."""
    max_hours: float = 0.0
    """After so many hours nothing more is started and what runs is stopped; 0 for no limit."""
    max_gpu_hours: float = 0.0
    """The same for hours of trials' GPUs together."""
    seed: int = 0
    """Of the choice of combinations."""

    def __post_init__(self) -> None:
        for name, least in (
            ("concurrent_trials", 1),
            ("seeds", 1),
            ("num_trials", 0),
            ("max_failures", 0),
            ("gpus_per_trial", 0),
            ("max_hours", 0),
            ("max_gpu_hours", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.algorithm != "grid" and not self.num_trials:
            raise ValueError(f"algorithm {self.algorithm!r} needs num_trials: how many to try")
        if self.algorithm in ("tpe", "asha", "pbt") and self.seeds > 1:
            raise ValueError(f"several seeds go with 'grid' and 'random', not {self.algorithm!r}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One combination under one seed, and what came of it."""

    name: str
    changes: dict[str, Any]
    """Values by dotted name."""
    seed: int = 0
    label: str = ""
    """The row of a paper's table that it is."""
    scores: dict[str, float] = field(default_factory=dict)
    """The validation scores of its best checkpoint; empty if it failed."""
    checkpoint: str = ""
    seconds: float = 0.0
    """Spent training, in this search."""
    reused: bool = False
    """Whether an earlier search had finished it."""
    steps: int = 0
    """Steps it has taken: fewer than asked for if it was stopped early."""
    error: str = ""
    """Why it failed or was not finished; "" if it was."""


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
