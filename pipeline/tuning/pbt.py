"""Population based training (Jaderberg et al. 2017).

At each validation the worst members copy the networks, optimizers and step of the best ones, and
their values with a small change. A member is a folder; each period with one set of values is a run
in it, which starts from the checkpoint of the previous period, its own or another member's.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from infill.pipeline import checkpoints, storage
from infill.pipeline.cluster import cap_gpu_memory
from infill.pipeline.config import flatten, override
from infill.pipeline.interruption import Interrupted
from infill.pipeline.metrics.metric_registry import VALIDATED
from infill.pipeline.progress import Log, Progress
from infill.pipeline.temporary_folders import temporary_folder
from infill.pipeline.tracking import Record
from infill.pipeline.training import SCORE, TrainConfig, train
from infill.pipeline.tuning.config import Trial, TuneConfig
from infill.pipeline.tuning.ray_tuner import run_tuner
from infill.pipeline.tuning.spaces import Range, Space, listed_value
from infill.pipeline.tuning.trials import NOT_FINISHED, NOT_STARTED, Planned, folder, write_down

REFERENCE = "reference.json"
"""Key in the data that Ray passes between members: the location of the real checkpoint."""
KEEP_ALL = 10**9
"""All checkpoints are kept: another member may still copy any of them."""


def run_pbt(
    config: TuneConfig,
    space: Space,
    planned: list[Planned],
    earlier: Mapping[str, Trial],
    log: Log,
) -> list[Trial]:
    """Train a population to the last step. On the driver; Ray is connected.

    Args:
        config: the search; it has ``num_trials`` members.
        space: the search space.
        planned: each member's first values.
        earlier: members of an interrupted search, which are resumed.
        log: prints one line.
    """
    from ray import tune as ray_tune
    from ray.tune.schedulers import PopulationBasedTraining
    from ray.tune.search.basic_variant import BasicVariantGenerator

    members = [earlier.get(name_of(index)) for index in range(config.num_trials)]
    over = [member for member in members if member and member.steps >= config.train.steps]
    if len(over) == config.num_trials:
        log(f"{len(over)} members were finished before")
        return over
    first = [
        encode_values(space, member.changes if member else trial.changes)
        for member, (trial, _) in zip(members, planned, strict=True)
    ]
    begin = {name_of(i): member.checkpoint for i, member in enumerate(members) if member}
    log(f"a population of {config.num_trials}, {len(begin)} of them from an earlier search")
    scheduler = PopulationBasedTraining(
        time_attr="step",
        perturbation_interval=config.train.save_every_steps,
        hyperparam_mutations=_mutations(space),
        custom_explore_fn=lambda values: values | within(space, values),
        log_config=False,
    )
    steps = config.num_trials * config.train.steps
    with Progress("search", steps, "steps of all members", log=log) as progress:
        results = run_tuner(
            config,
            _live,
            {"search": config, "space": dict(space), "begin": begin}
            | {name: ray_tune.choice([one[name] for one in first]) for name in space},
            _trial_callback(config, progress),
            num_samples=config.num_trials,
            scheduler=scheduler,
            search_alg=BasicVariantGenerator(points_to_evaluate=first),
        )
    found = {}
    for result in results:
        if result.config is None:
            continue
        name = name_of(_number_of(result.trial_id))
        trial = _member(config, name, values_of(space, result.config), result.metrics)
        found[name] = replace(trial, error=result.error or trial.error)
        write_down(config, found[name])
    for index, (member, (trial, _)) in enumerate(zip(members, planned, strict=True)):
        late = replace(member or trial, name=name_of(index), error=NOT_STARTED)
        found.setdefault(late.name, late)
    return [found[name_of(index)] for index in range(config.num_trials)]


def _number_of(trial_id: str) -> int:
    return int(trial_id.rsplit("_", 1)[1])


def name_of(index: int) -> str:
    """Return a member's name."""
    return f"member-{index:03d}"


def encode_values(space: Space, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return values in Ray's form: those of a list as text."""
    return {
        name: (round(changes[name]) if values.whole else changes[name])
        if isinstance(values, Range)
        else listed_value(values, changes[name]) or json.dumps(changes[name])
        for name, values in space.items()
    }


def values_of(space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`encode_values`."""
    return {
        name: settings[name] if isinstance(values, Range) else json.loads(settings[name])
        for name, values in space.items()
    }


def within(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return changed numbers clipped to their ranges."""
    found = {}
    for name, range_ in space.items():
        if isinstance(range_, Range):
            number = min(range_.high, max(range_.low, values[name]))
            found[name] = round(number) if range_.whole else number
    return found


def _mutations(space: Space) -> dict[str, Any]:
    from ray import tune as ray_tune

    found: dict[str, Any] = {}
    for name, values in space.items():
        if not isinstance(values, Range):
            found[name] = [json.dumps(value) for value in values]
        elif values.log:
            found[name] = ray_tune.loguniform(values.low, values.high)
        else:
            found[name] = ray_tune.uniform(values.low, values.high)
    return found


def stretch(config: TuneConfig, name: str, changes: Mapping[str, Any], begin: str) -> TrainConfig:
    """Return a member's training with one set of values, from a checkpoint or from the start."""
    values = flatten(override(config.train, changes))
    identity = json.dumps([{n: values[n] for n in changes}, begin], sort_keys=True, default=str)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    settings = {
        **changes,
        "storage": storage.join(folder(config), name, digest),
        "tracking.run_name": name,
        "resume_from": begin,
        **config.trial_settings,
        "keep_checkpoints": KEEP_ALL,
    }
    return override(config.train, settings)


def _live(settings: dict[str, Any]) -> None:
    """In a member's own process: train with its values, reporting each validation."""
    import torch
    from ray import tune as ray_tune

    search, space = settings["search"], settings["space"]
    name = name_of(_number_of(ray_tune.get_context().get_trial_id()))
    begin, given = settings["begin"].get(name, ""), ray_tune.get_checkpoint()
    if given is not None:
        with given.as_directory() as directory:
            begin = json.loads(Path(directory, REFERENCE).read_text())["checkpoint"]
    changes = values_of(space, settings)
    training = stretch(search, name, changes, begin)
    torch.set_num_threads(max(1, int(training.cpus_per_worker)))
    cap_gpu_memory(search.gpus_per_trial)

    def report_scores(
        step: int, scores: Mapping[str, float], checkpoint: str, seconds: float
    ) -> None:
        metrics = {**scores, "step": step, "checkpoint": checkpoint, "trained_s": seconds}
        write_down(search, _member(search, name, changes, metrics))
        with temporary_folder() as directory:
            Path(directory, REFERENCE).write_text(json.dumps({"checkpoint": checkpoint}))
            ray_tune.report(metrics, checkpoint=ray_tune.Checkpoint.from_directory(str(directory)))

    def report(record: Record) -> None:
        if record.kind == "scores" and record.step < training.steps:
            report_scores(record.step, record.values, record.checkpoint, 0.0)

    if begin and (state := checkpoints.read_state(begin))["step"] >= training.steps:
        report_scores(state["step"], state["scores"], begin, 0.0)  # it copied a finished member
        return
    try:
        result = train(training, lambda line: None, report)
    except Interrupted:
        _write_down_saved(search, name, changes, training.storage)
        raise
    report_scores(result.step, result.scores, result.checkpoint, result.seconds)


def _write_down_saved(config: TuneConfig, name: str, changes: Mapping[str, Any], run: str) -> None:
    """Let an interrupted member resume from its newest checkpoint, which has no scores yet."""
    newest = checkpoints.latest(run)
    if newest is not None:
        metrics = {"step": checkpoints.read_state(newest)["step"], "checkpoint": newest}
        member = _member(config, name, changes, metrics)
        write_down(config, replace(member, error="not finished: the search was interrupted"))


def _member(
    config: TuneConfig, name: str, changes: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Trial:
    validated = {metric.name for metric in VALIDATED}
    names = [key for key in metrics if key.split("/")[0] in validated]
    return Trial(
        name=name,
        changes=dict(changes),
        seed=config.train.seed,
        scores={key: metrics[key] for key in names},
        checkpoint=metrics.get("checkpoint", ""),
        seconds=metrics.get("trained_s", 0.0),
        steps=int(metrics.get("step", 0)),
        error="" if SCORE in metrics else NOT_FINISHED,
    )


def _trial_callback(config: TuneConfig, progress: Progress) -> Any:
    from ray.tune import Callback

    from infill.pipeline.tuning.failed_trials import reason_of

    steps: dict[str, int] = {}

    class TrialCallback(Callback):
        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
        ) -> None:
            name = name_of(_number_of(trial.trial_id))
            step = f"step {result['step']}/{config.train.steps}"
            steps[name] = result["step"]
            progress.reach(sum(steps.values()))
            progress.say(f"{name}  {step}  {SCORE} {result.get(SCORE, float('nan')):.3f}")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            name = name_of(_number_of(trial.trial_id))
            progress.say(f"{name}  failed: {reason_of(trial)}")

    return TrialCallback()
