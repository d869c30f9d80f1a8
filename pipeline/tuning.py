"""Many trials around one preset: each trains through the same code as a run of its own.

A trial's folder is named after what it changes, so a search that is started again finds the
trials it has finished and goes on with the one it was interrupted in; nothing runs twice.
"""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline import checkpoints, storage
from pipeline.config import UserError, flatten, override
from pipeline.tracking import duration
from pipeline.training import SCORE, TrainConfig, train

Space = Mapping[str, Sequence[Any]]
"""The values to try, by dotted name; the trials are all their combinations."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """A search: which values around which training, and how many trials at a time."""

    train: TrainConfig
    """The training that every trial varies; ``train.storage`` is not used."""
    search: str = "lambdas"
    """The space's name among the job's, or a JSON file of lists by dotted name."""
    storage: str = "runs/sweep"
    """The folder or s3:// prefix that gets one run per trial, the table and the plot."""
    concurrent_trials: int = 2
    """Trials at a time; each trains in one process and needs ``train.cpus_per_worker``."""
    max_trials: int = 0
    """Take this many combinations, evenly spread; 0 takes all."""
    max_failures: int = 1
    """How often a trial that failed is tried again before it is reported as failed."""

    def __post_init__(self) -> None:
        if self.concurrent_trials < 1:
            raise ValueError(f"concurrent_trials must be at least 1, not {self.concurrent_trials}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One combination, and what came of it."""

    name: str
    changes: dict[str, Any]
    """Values by dotted name."""
    scores: dict[str, float] = field(default_factory=dict)
    """The validation scores of its best checkpoint; empty if it failed."""
    checkpoint: str = ""
    seconds: float = 0.0
    """Spent training, in this search."""
    reused: bool = False
    """Whether an earlier search had finished it."""
    error: str = ""
    """Why it failed; "" if it did not."""


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


def read_space(search: str, spaces: Mapping[str, Space]) -> Space:
    """Return a named space, or the one in a JSON file.

    Raises:
        UserError: if there is neither.
    """
    if search in spaces:
        return spaces[search]
    if not search.endswith(".json"):
        known = ", ".join(sorted(spaces))
        raise UserError(f"unknown search {search!r}; there are: {known}; or give a .json file")
    try:
        values = json.loads(storage.read(search))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {search}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{search} is not JSON: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(v, list) for v in values.values()):
        raise UserError(f"{search} must map dotted names to lists of values")
    return values


def plan(config: TuneConfig, space: Space) -> list[tuple[Trial, TrainConfig]]:
    """Return every trial with its complete training configuration, checked.

    Raises:
        UserError: if a name is unknown or the space is empty.
        ValueError: if a combination is impossible.
    """
    combinations = [
        dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())
    ]
    if not combinations:
        raise UserError(f"the search {config.search!r} has a name without values")
    if 0 < config.max_trials < len(combinations):
        chosen = np.linspace(0, len(combinations) - 1, config.max_trials).round().astype(int)
        combinations = [combinations[index] for index in chosen]
    return [_plan_one(config, changes) for changes in combinations]


def _plan_one(config: TuneConfig, changes: dict[str, Any]) -> tuple[Trial, TrainConfig]:
    values = flatten(override(config.train, changes))
    changes = {name: values[name] for name in changes}
    identity = json.dumps(changes, sort_keys=True, default=str)
    words = [f"{name.rsplit('.', 1)[-1]}={value}" for name, value in changes.items()]
    name = "_".join(words)[:80] + "-" + hashlib.sha256(identity.encode()).hexdigest()[:6]
    name = "".join(c if c.isalnum() or c in "=_.-" else "-" for c in name)
    run = storage.join(storage.absolute(config.storage), "trials", name)
    # In one process: a nested group of workers would cost more to start than a small trial takes.
    settings = {**changes, "storage": run, "num_workers": 0}
    return Trial(name=name, changes=changes), override(config.train, settings)


def tune(config: TuneConfig, space: Space, log: Callable[[str], None] = print) -> TuneResult:
    """Run every trial of a space and return them best first. On the driver; Ray is connected.

    Raises:
        UserError: if a name or value of the space is impossible; nothing has started then.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Ray's tables: we print a line per trial
    from ray import tune as ray_tune

    start = time.monotonic()
    planned = {trial.name: (trial, training) for trial, training in plan(config, space)}
    log(f"{len(planned)} trials, {config.concurrent_trials} at a time")
    books = storage.join(storage.absolute(config.storage), "ray")
    results = ray_tune.Tuner(
        ray_tune.with_resources(_run_trial, {"CPU": config.train.cpus_per_worker}),
        param_space={
            "training": ray_tune.grid_search([training for _, training in planned.values()])
        },
        tune_config=ray_tune.TuneConfig(
            metric=SCORE,
            mode="max",
            max_concurrent_trials=config.concurrent_trials,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=books,
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=config.max_failures),
            callbacks=[_progress(len(planned), log)],
        ),
    ).fit()
    trials = [_outcome(planned, result) for result in results]
    storage.remove(books)
    trials.sort(key=lambda trial: trial.scores.get(SCORE, -np.inf), reverse=True)
    return TuneResult(trials=tuple(trials), seconds=time.monotonic() - start)


def _run_trial(settings: dict[str, Any]) -> None:
    """In a trial's own process: train, reporting every validation."""
    import torch
    from ray import tune as ray_tune

    training: TrainConfig = settings["training"]
    torch.set_num_threads(max(1, int(training.cpus_per_worker)))
    result = train(training, log=lambda line: None)
    ray_tune.report(
        {
            **result.scores,
            SCORE: result.scores.get(SCORE, float("nan")),
            "checkpoint": result.checkpoint,
            "trained_s": result.seconds,
            "reused": result.reused,
        }
    )


def _progress(total: int, log: Callable[[str], None]) -> Any:
    """Return a Tune callback that tells of each trial that ends."""
    from ray.tune import Callback

    class Progress(Callback):
        def __init__(self) -> None:
            self.start, self.done = time.monotonic(), 0

        def _tell(self, trial: Any, outcome: str) -> None:
            self.done += 1
            spent = time.monotonic() - self.start
            left = spent / self.done * (total - self.done)
            run = trial.config["training"].storage.rsplit("/", 1)[-1]
            log(f"trial {self.done}/{total}  {run}  {outcome}  {duration(left)} left")

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            score = trial.last_result.get(SCORE, float("nan"))
            reused = "  (finished before)" if trial.last_result.get("reused") else ""
            self._tell(trial, f"{SCORE} {score:.3f}{reused}")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self._tell(trial, "failed")

    return Progress()


def _outcome(planned: Mapping[str, tuple[Trial, TrainConfig]], result: Any) -> Trial:
    name = result.config["training"].storage.rsplit("/", 1)[-1]
    trial, _ = planned[name]
    if result.error is not None:
        return Trial(name=name, changes=trial.changes, error=str(result.error).splitlines()[-1])
    metrics = result.metrics
    return Trial(
        name=name,
        changes=trial.changes,
        scores=checkpoints.read_state(metrics["checkpoint"])["scores"],
        checkpoint=metrics["checkpoint"],
        seconds=metrics["trained_s"],
        reused=metrics["reused"],
    )
