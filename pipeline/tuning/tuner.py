"""Run the trials of a search on the cluster."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from infill.models.tables import Table
from infill.pipeline import storage
from infill.pipeline.cluster import cap_gpu_memory
from infill.pipeline.config import override
from infill.pipeline.errors import UserError
from infill.pipeline.interruption import requested
from infill.pipeline.progress import Log, Progress
from infill.pipeline.tracking import Record, mlflow_run_id, tracked
from infill.pipeline.training import SCORE, best, train
from infill.pipeline.tuning.config import Trial, TuneConfig, TuneResult
from infill.pipeline.tuning.pbt import encode_values, run_pbt, values_of
from infill.pipeline.tuning.ray_tuner import run_tuner
from infill.pipeline.tuning.spaces import Space, holds
from infill.pipeline.tuning.trials import (
    NOT_FINISHED,
    NOT_STARTED,
    Planned,
    curve_of,
    num_trials,
    plan,
    plan_one,
    share_batch,
    write_down,
    written_down,
)


def tune(config: TuneConfig, space: Space | Table, log: Log = print) -> TuneResult:
    """Run every trial of a space and return them best first. On the driver; Ray is connected.

    Raises:
        UserError: if a name or value of the space is impossible; no trial has started then.
    """
    start, config = time.monotonic(), share_batch(config)
    config = replace(config, storage=storage.absolute(config.storage))
    plan(config, space)
    run, tracking = config.storage, config.train.tracking
    about = {"space": config.space, "algorithm": config.algorithm, "seeds": config.seeds}
    about |= {"num_trials": config.num_trials, "steps": config.train.steps}
    name, facts = f"search {config.space}", {"storage": run}
    with tracked(tracking, run, name, about, facts, log) as report:
        part = override(config, {"train.tracking.parent": mlflow_run_id(run)})
        trials = sorted(_trials(part, space, log), key=_rank)
        if trials and trials[0].scores:
            report(Record(kind="scores", step=trials[0].steps, values=trials[0].scores))
    return TuneResult(trials=tuple(trials), seconds=time.monotonic() - start)


def _rank(trial: Trial) -> float:
    return -trial.scores.get(SCORE, -math.inf)


def _trials(config: TuneConfig, space: Space | Table, log: Log) -> list[Trial]:
    """Return every trial; finished ones of an earlier search are unchanged."""
    planned = plan(config, space)
    earlier = written_down(config.storage)
    if config.method.searcher:
        assert not isinstance(space, Table)
        return _suggested(config, space, earlier, log)
    if config.method.exchanges:
        assert not isinstance(space, Table)
        return run_pbt(config, space, planned, earlier, log)
    todo = [one for one in planned if not _is_over(config, earlier.get(one[0].name))]
    log(f"{len(planned)} trials, {config.concurrent_trials} at a time")
    if len(todo) < len(planned):
        log(f"{len(planned) - len(todo)} of them were finished before")
    found = _run(config, todo, earlier, log) if todo else {}
    return [
        found[trial.name]
        if trial.name in found
        else replace(earlier[trial.name], label=trial.label)
        for trial, _ in planned
    ]


def _is_over(config: TuneConfig, trial: Trial | None) -> bool:
    """Return whether a trial is finished: it took all steps, or ASHA stopped it."""
    if trial is None or not trial.scores:
        return False
    return trial.steps >= config.train.steps or config.method.scheduler is not None


def _run(
    config: TuneConfig, todo: list[Planned], earlier: Mapping[str, Trial], log: Log
) -> dict[str, Trial]:
    """Run the trials that are known beforehand."""
    from ray import tune as ray_tune

    scheduler = None
    if config.method.scheduler:
        over = [trial for trial in earlier.values() if _is_over(config, trial)]
        curves = [{int(step): score for step, score in trial.curve.items()} for trial in over]
        scheduler = config.method.scheduler(config.train.steps, curves)
        _require_kind(scheduler, ray_tune.schedulers.TrialScheduler, config.algorithm)
    space = {"trial": ray_tune.grid_search([_with_space(config, one) for one in todo])}
    found = _fit(config, space, len(todo), log, scheduler=scheduler)
    for trial, _ in todo:
        if trial.name not in found:  # keep the record of an earlier search
            found[trial.name] = replace(trial, error=NOT_STARTED)
    return found


def _require_kind(found: Any, kind: Any, algorithm: str) -> None:
    """Refuse what an algorithm's function returned if Ray Tune would do without it in silence.

    Raises:
        UserError: naming the algorithm.
    """
    if not isinstance(found, kind):
        raise UserError(
            f"the function of algorithm {algorithm!r} returned {found!r}, not Ray Tune's scheduler "
            "or searcher"
        )


def _with_space(config: TuneConfig, one: Planned) -> dict[str, Any]:
    return {"search": config, "trial": one[0], "training": one[1]}


def _suggested(
    config: TuneConfig, space: Space, earlier: dict[str, Trial], log: Log
) -> list[Trial]:
    """Run the trials that a searcher proposes, given the trials of earlier searches here."""
    from ray.tune.search import SearchAlgorithm, Searcher

    alike = {name: trial for name, trial in earlier.items() if holds(space, trial.changes)}
    over = {name: trial for name, trial in alike.items() if _is_over(config, trial)}
    begun = [
        encode_values(space, trial.changes) for name, trial in alike.items() if name not in over
    ]
    finished = [
        (encode_values(space, trial.changes), trial.scores.get(SCORE, math.nan))
        for trial in over.values()
    ]
    assert config.method.searcher is not None
    searcher = config.method.searcher(space, SCORE, config.seed + len(over), begun, finished)
    _require_kind(searcher, SearchAlgorithm | Searcher, config.algorithm)
    total = num_trials(config, space)
    count = total - len(over)
    log(f"{total} trials, {len(over)} of them were finished before")
    if count <= 0:
        return list(over.values())
    found = _fit(config, {"search": config, "space": dict(space)}, count, log, searcher=searcher)
    return [*over.values(), *found.values()]


def _fit(
    config: TuneConfig,
    space: dict[str, Any],
    count: int,
    log: Log,
    searcher: Any = None,
    scheduler: Any = None,
) -> dict[str, Trial]:
    """Run trials on the cluster and store each as it ends.

    Returns:
        The trials that have started, by name; the time limit may end the search before all have.
    """
    chosen = {"num_samples": count} if searcher is not None else {}
    with Progress("search", count, "trials", log=log) as progress:
        trial_callback = _trial_callback(config, progress)
        results = run_tuner(
            config,
            _run_trial,
            space,
            trial_callback,
            search_alg=searcher,
            scheduler=scheduler,
            **chosen,
        )
    trials = {}
    for result in results:
        if result.config is None:
            continue
        trial = _outcome(result.config, result.metrics, result.error)
        trials[trial.name] = trial
        write_down(config, trial)
    return trials


def planned_of(settings: Mapping[str, Any]) -> Planned:
    """Return the trial of Ray's settings: a planned one, or a proposed one."""
    if "trial" in settings:
        one = settings["trial"]
        return one["trial"], one["training"]
    space: Space = settings["space"]
    search: TuneConfig = settings["search"]
    return plan_one(search, values_of(space, settings), search.train.seed)


def _search_of(settings: Mapping[str, Any]) -> TuneConfig:
    search: TuneConfig = settings.get("trial", settings)["search"]
    return search


def _run_trial(settings: dict[str, Any]) -> None:
    """In a trial's own process: train, and report every validation."""
    import torch
    from ray import tune as ray_tune

    trial, training = planned_of(settings)
    search = _search_of(settings)
    curve = curve_of(search, trial)
    write_down(search, replace(trial, curve=curve))
    torch.set_num_threads(max(1, int(training.cpus_per_worker)))
    cap_gpu_memory(search.gpus_per_trial)

    def report(record: Record) -> None:
        if record.kind == "scores" and record.step < training.steps:
            curve[str(record.step)] = record.values[SCORE]
            write_down(search, replace(trial, curve=curve))
            ray_tune.report({**record.values, "step": record.step, "trained_s": 0.0})

    also = report if search.method.scheduler else None
    result = train(training, lambda line: None, also)
    ray_tune.report(
        {
            **result.scores,
            SCORE: result.scores.get(SCORE, float("nan")),
            "step": result.step,
            "trained_s": result.seconds,
        }
    )


def _trial_callback(config: TuneConfig, progress: Progress) -> Any:
    """Return a Tune callback that reports and stores each trial that ends."""
    from ray.tune import Callback

    from infill.pipeline.tuning.failed_trials import reason_of

    class TrialCallback(Callback):
        def _report(self, trial: Any, outcome: str) -> None:
            progress.advance()
            run = planned_of(trial.config)[0]
            name = run.label or run.name
            progress.say(f"trial {progress.done}/{progress.total}  {name}  {outcome}")

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            if requested():
                return  # It has saved, and is not finished.
            ended = _outcome(trial.config, trial.last_result)
            write_down(config, ended)
            steps = config.train.steps
            early = f"  stopped after {ended.steps} steps" if ended.steps < steps else ""
            self._report(trial, f"{SCORE} {ended.scores.get(SCORE, math.nan):.3f}{early}")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self._report(trial, f"failed: {reason_of(trial)}")

    return TrialCallback()


def _outcome(settings: Mapping[str, Any], metrics: Mapping[str, Any], error: str = "") -> Trial:
    trial, training = planned_of(settings)
    trial = replace(trial, curve=curve_of(_search_of(settings), trial))
    if error:
        return replace(trial, error=error)
    if SCORE not in metrics:
        return replace(trial, error=NOT_FINISHED)
    checkpoint, scores = best(training.storage)
    return replace(
        trial,
        scores=scores,
        checkpoint=checkpoint,
        seconds=metrics["trained_s"],
        steps=int(metrics["step"]),
    )
