"""Start Ray Tune; every kind of search uses this."""

import os
import warnings
from collections.abc import Callable
from typing import Any

from infill.pipeline import storage
from infill.pipeline.training import SCORE
from infill.pipeline.tuning.config import TuneConfig


def run_tuner(
    config: TuneConfig,
    trainable: Callable[[dict[str, Any]], None],
    space: dict[str, Any],
    watcher: Any,
    **chosen: Any,
) -> Any:
    """Run trials on the cluster until they have ended, or the time is up; return Ray's results.

    Args:
        config: of the search.
        trainable: what a trial's process does with its settings.
        space: of those settings.
        watcher: a callback of Tune's.
        chosen: further arguments of Tune's own configuration: algorithm, scheduler, number.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Ray's tables: we print a line per trial
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our trials keep books
    from ray import tune as ray_tune

    books = storage.join(storage.absolute(config.storage), "ray")
    resources = {"CPU": config.train.cpus_per_worker}
    if config.gpus_per_trial:
        resources["GPU"] = config.gpus_per_trial
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, resources),
        param_space=space,
        tune_config=ray_tune.TuneConfig(
            metric=SCORE,
            mode="max",
            max_concurrent_trials=config.concurrent_trials,
            # A process costs two seconds more than a trial in one that has PyTorch already; but
            # where a scheduler stops trials, what it has stopped may still be at work there.
            reuse_actors="scheduler" not in chosen or chosen["scheduler"] is None,
            time_budget_s=budget_s(config),
            trial_dirname_creator=lambda trial: trial.trial_id,
            **chosen,
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=books,
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=config.max_failures),
            callbacks=[watcher],
        ),
    )
    with warnings.catch_warnings():
        # A member that goes over gets a process of its own: the old one is still training.
        warnings.filterwarnings("ignore", message="Consider boosting PBT")
        results = tuner.fit()
    storage.remove(books)
    return results


def budget_s(config: TuneConfig) -> float | None:
    """Return the seconds after which all trials end, such that neither limit is passed."""
    limits = [config.max_hours] if config.max_hours else []
    if config.max_gpu_hours:
        at_once = max(1.0, config.concurrent_trials * config.gpus_per_trial)
        limits.append(config.max_gpu_hours / at_once)
    return 3600 * min(limits) if limits else None
