"""Start Ray Tune, for every kind of search."""

import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from infill.pipeline import storage
from infill.pipeline.shared_folders import seen_here
from infill.pipeline.training import SCORE
from infill.pipeline.tuning.config import TuneConfig

if TYPE_CHECKING:  # It imports Ray.
    from infill.pipeline.tuning.failed_trials import EndedTrial


def run_tuner(
    config: TuneConfig,
    trainable: Callable[[dict[str, Any]], None],
    space: dict[str, Any],
    trial_callback: Any,
    **chosen: Any,
) -> "list[EndedTrial]":
    """Run trials on the cluster until they end or the time limit is reached; return all of them.

    A search that is interrupted ends after a checkpoint of every running trial.

    Args:
        config: the search.
        trainable: runs in a trial's process, with the trial's settings.
        space: the space of those settings.
        trial_callback: a Tune callback.
        chosen: further arguments of ``TuneConfig`` of Ray Tune: algorithm, scheduler, number.

    Raises:
        Interrupted: if this process was asked to end.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Ray's tables: we print a line per trial
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends a search as any job
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our trials log themselves
    from infill.pipeline.tuning.failed_trials import FailedTrials, without_tracebacks
    from infill.pipeline.tuning.search_interruption import saving_trials, stoppable

    books = storage.join(storage.absolute(config.storage), "ray")
    failed = FailedTrials()
    with (
        saving_trials(config.storage) as (asked, running, stopper),
        warnings.catch_warnings(),
        without_tracebacks(),
    ):
        # A member that copies another one gets a new process: the old one is still training.
        warnings.filterwarnings("ignore", message="Consider boosting PBT")
        shards = (config.train.data.shards, config.train.data.validation_shards)
        tuned = stoppable(trainable, asked, seen_here(config.storage, *shards))
        callbacks = [failed, trial_callback, running]
        tuner = _tuner(config, tuned, space, books, callbacks, stopper, chosen)
        try:
            return failed.among(tuner.fit())
        finally:
            storage.remove(books)


def _tuner(
    config: TuneConfig,
    trainable: Callable[[dict[str, Any]], None],
    space: dict[str, Any],
    books: str,
    callbacks: list[Any],
    stopper: Any,
    chosen: dict[str, Any],
) -> Any:
    """Return Ray's tuner of a search, with its own records in the folder ``books``."""
    from ray import tune as ray_tune

    return ray_tune.Tuner(
        ray_tune.with_resources(trainable, trial_resources(config)),
        param_space=space,
        tune_config=ray_tune.TuneConfig(
            metric=SCORE,
            mode="max",
            max_concurrent_trials=config.concurrent_trials,
            # A new process takes two seconds more than a trial in one that has loaded PyTorch; but
            # if a scheduler stops trials, a stopped one may still be running there.
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
            callbacks=callbacks,
            stop=stopper,
        ),
    )


def trial_resources(config: TuneConfig) -> Any:
    """Return what a trial reserves, as Ray Tune takes it.

    Several workers are reserved together, a bundle for each, so that no two trials hold parts of
    what they need and wait for each other. The trial's own process only waits and takes nothing.
    """
    from ray.tune import PlacementGroupFactory

    train, workers = config.train, config.trial_workers
    worker = {"CPU": float(train.cpus_per_worker)}
    if config.gpus_per_trial:
        worker["GPU"] = config.gpus_per_trial / workers
    selector = dict(label.split("=", 1) for label in train.worker_labels)
    bundles = [worker] if workers == 1 else [{}, *[worker] * workers]
    return PlacementGroupFactory(
        bundles,
        strategy="PACK",
        bundle_label_selector=[selector] * workers if selector else None,
    )


def budget_s(config: TuneConfig) -> float | None:
    """Return the seconds after which all trials end, such that neither limit is passed."""
    limits = [config.max_hours] if config.max_hours else []
    if config.max_gpu_hours:
        at_once = max(1.0, config.concurrent_trials * config.gpus_per_trial)
        limits.append(config.max_gpu_hours / at_once)
    return 3600 * min(limits) if limits else None
