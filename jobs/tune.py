"""Search hyperparameters around a training preset: each trial is a training with other values.

python jobs/tune.py spn --space lambdas --train.data.shards runs/demo/shards
python jobs/tune.py madf --space madf-table2 --scale smoke
python jobs/tune.py spn --space my_space.yaml --algorithm tpe --num-trials 40
python jobs/tune.py spn --space lambdas --scale paper --gpus-per-trial 0.5 --dry-run

--space is one of three things. It can be a space of the paper, such as "lambdas" or "blocks". It
can be an ablation table of the paper, whose rows are evaluated on test images and printed beside
the published figures. Or it is a file that maps dotted names to values, such as
{"model.image_weight": [1, 10], "model.num_blocks": [2, 4]}. --scale chooses the training preset:
"cpu" (for two cores, the default), "paper" or "smoke". If a search is interrupted, run the same
command again: it keeps the finished trials.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import get_args

from infill.jobs.plan import training_presets
from infill.models.config import config_class, names, spaces, tables
from infill.models.tables import Table
from infill.pipeline import forkserver, model_selection, storage, tracking, training, tuning
from infill.pipeline.cluster import connect, require_gpu
from infill.pipeline.commands import typed
from infill.pipeline.config import flatten, parse, run
from infill.pipeline.cost_estimate import CostEstimateConfig, Gpu, estimate_compute, span
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import PROTOCOLS, Protocol
from infill.pipeline.job_summary import (
    announce,
    announce_start,
    inpaint_command,
    report_results,
    test_set_of,
    watching,
)
from infill.pipeline.loading import BatchConfig
from infill.pipeline.model_selection import TableConfig
from infill.pipeline.train_cli import require_data, shards_to_make, smoke, with_shards
from infill.pipeline.training import TrainConfig
from infill.pipeline.tuning import TuneConfig
from infill.pipeline.tuning.config import Scale


@dataclass(frozen=True, kw_only=True)
class SearchConfig(TuneConfig):
    """A search, and the evaluation of its rows if the space is a table of a paper."""

    table: TableConfig = field(default_factory=TableConfig)
    """Settings of the evaluation, for a paper's table only."""
    dry_run: bool = False
    """Whether to print the plan of the search (trials, GPU-hours, cost) and not to train."""
    gpu: Gpu = "v100"
    """The GPU for which the plan estimates hours."""
    price_per_gpu_hour: float = 0.0
    """Price of a GPU with its share of the node per hour, for the plan; 0 leaves costs out."""
    currency: str = "USD"
    """Currency of the price."""


def training_of(name: str, scale: Scale, space: str = "") -> TrainConfig:
    """Return the training preset of an architecture at a scale.

    "paper" is the preset that a space needs: a table's own; that of the variant which a paper's
    space sets; otherwise that of the dataset on which the paper compares its variants, or, where it
    has no such table, the first preset that is a paper's.

    Raises:
        UserError: if the training job of the architecture has no such preset.
    """
    presets = training_presets(name)
    if not presets:
        raise UserError(
            f"{name} has no jobs/train_{name}.py with a preset to search around: write one, as in "
            "docs/new-architecture.md"
        )
    wanted: str = _paper_preset(name, presets, space) if scale == "paper" else scale
    if wanted not in presets:
        raise UserError(
            f"jobs/train_{name}.py has no preset {wanted!r} to search around; it has "
            f"{', '.join(presets)}: add one, or choose another --scale"
        )
    return presets[wanted]


def small_training(name: str) -> TrainConfig:
    """Return a training of an architecture that takes seconds: its smoke preset, if it has one."""
    own = training_presets(name).get("smoke")
    return own or smoke(config_class(name).tiny(), BatchConfig(batch_size=4, image_size_px=64))


def _paper_preset(name: str, presets: Mapping[str, TrainConfig], space: str) -> str:
    """Return the name of the paper's preset for a space, "paper" if there is none."""
    if table := tuning.read_table(space, name):
        return table.preset
    own = ("base", "cpu", "demo", "finetune", "smoke")
    papers = [preset for preset in presets if preset not in own]
    compared = [table.preset for table in tables(name).values() if table.preset in presets]
    candidates = [*(p for p in papers if p in compared), *papers]
    fixed = {
        key: values[0] for key, values in spaces(name).get(space, {}).items() if len(values) == 1
    }
    for preset in candidates:
        fields = flatten(presets[preset].model)
        if all(fields[key] == value for key, value in fixed.items()):
            return preset
    return next(iter(candidates), "paper")


def presets_of(scale: Scale, space: str = "") -> dict[str, SearchConfig]:
    """Return a search for each architecture that has a training preset of a scale."""
    found = {}
    for name in names():
        with suppress(UserError):
            training = training_of(name, scale, space)
            found[name] = SearchConfig(
                train=training,
                storage=f"runs/sweep-{name}-{scale}",
                gpus_per_trial=1.0 if training.use_gpu else 0.0,
            )
    return found


def about_search(name: str, config: SearchConfig) -> str:
    """Describe the training that the search of an architecture varies."""
    data, training = config.train.data, config.train
    return (
        f"Trials of {name} at {data.image_size_px} px, {training.steps:,} steps of "
        f"{data.batch_size} images each; they go to {config.storage}."
    )


def scale_of(words: Sequence[str]) -> tuple[Scale, list[str]]:
    """Return ``--scale`` of the command line, which decides the defaults of all other fields."""
    scale, rest = _value_of("--scale", words)
    if scale is None:
        return "cpu", rest
    for known in get_args(Scale):
        if scale == known:
            return known, rest
    raise UserError(f"--scale is one of {', '.join(get_args(Scale))}, not {scale!r}")


def _value_of(flag: str, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return a flag's value, None if it is absent, and the other words."""
    rest = [word.replace(f"{flag}=", f"{flag}\0") for word in words]
    rest = [part for word in rest for part in word.split("\0")]
    if flag not in rest:
        return None, rest
    place = rest.index(flag)
    return next(iter(rest[place + 1 : place + 2]), ""), rest[:place] + rest[place + 2 :]


def main(words: Sequence[str] | None = None) -> None:
    """Run the trials of one space; write them, best first or in the order of the table."""
    scale, rest = scale_of(sys.argv[1:] if words is None else words)
    named = _value_of("--space", rest)[0] or ""
    if rest and rest[0] in names():
        training_of(rest[0], scale, named)  # Its error says more than that the preset is unknown.
    config = parse(presets_of(scale, named), __doc__, rest, about_search)
    name = config.train.model.architecture
    announce_start(f"search over {config.space!r} around {name}: checking data and settings")
    config = tuning.share_batch(config)  # Imports PyTorch.
    space = tuning.read_table(config.space, name) or tuning.read_space(config.space, name)
    planned = tuning.plan(config, space)
    count = tuning.num_trials(config, space)
    if count < config.num_trials and not isinstance(space, Table):
        print(f"{config.num_trials} trials are asked for: the space has {count} different ones")
    lacking = missing_weights([trial for _, trial in planned], report_only=config.dry_run)
    if not isinstance(space, Table):
        tuning.require_effects(space, planned[0][1], small_training(name))
    if config.dry_run or config.gpus_per_trial:
        lines = search_plan(config, planned[0][1], count)
        if isinstance(space, Table):
            lines += table_plan(space, planned[0][1])
            if others := model_selection.of_other_images(config, config.table, space):
                lines.append(f"images      {others}")
        print("\n".join(lines), flush=True)
    if lacking:
        raise UserError("; ".join(lacking))
    if config.dry_run:
        return
    require_gpu(config.gpus_per_trial > 0)
    require_data(config.train, search=True)
    if isinstance(space, Table) and (config.table.test_shards or not shards_to_make(config.train)):
        ready = replace(config, train=with_shards(config.train))
        model_selection.find_test_set(ready, config.table)
    announce_search(config, count)
    with connect(preload=forkserver.TRAINING):
        # Trials need no shards of their own: what is missing is made once, for all of them.
        config = replace(config, train=training.resolve(with_shards(config.train)))
        rows = None
        if isinstance(space, Table):
            model_selection.find_test_set(
                config, config.table
            )  # A night of training later would be too late.
        result = tuning.tune(config, space)
        if isinstance(space, Table):
            evaluated = model_selection.evaluate_table(
                config, space, result, config.table, scale == "paper"
            )
            rows = model_selection.paper_rows(space, evaluated)
    from infill.pipeline.reporting.search import write_search

    print(write_search(result, config.storage, f"{name}: {config.space}", rows))
    pages = [storage.join(config.storage, file) for file in ("report.html", "trials.csv")]
    tracking.attach(storage.absolute(config.storage), pages, print)
    print(f"best: {result.best.checkpoint}\ntable, plot and page: {config.storage}")
    command = inpaint_command(result.best.checkpoint)
    if test_set := test_set_of(config.train.data.shards):
        search = storage.absolute(config.storage)
        command = typed("choose", "--search", search, "--shards", test_set)
    report_results({}, command)


def missing_weights(trials: Sequence[TrainConfig], *, report_only: bool) -> list[str]:
    """Return what keeps trials from being built, such as a file of weights, each reason once.

    Args:
        trials: the trainings.
        report_only: whether to return the reasons, as a plan is printed first; otherwise the first
            is raised.

    Raises:
        UserError: naming the file or field.
    """
    found: dict[str, None] = {}
    for trial in trials:
        try:
            training.require_weights(trial)
        except UserError as error:
            if not report_only:
                raise
            found[str(error)] = None
    return list(found)


def search_plan(config: SearchConfig, trial: TrainConfig, count: int) -> list[str]:
    """Return the plan of a search, a line each: trials, GPU-hours and cost at most.

    Args:
        config: the search.
        trial: the training of its first trial, whose hours are taken for all.
        count: number of trials; those that are stopped early or finished before cost less.
    """
    found = estimate_compute(CostEstimateConfig(train=trial, gpu=config.gpu))
    share = config.gpus_per_trial or config.trial_workers
    hours = [count * share * each for each in found.hours]
    wall = -(-count // config.concurrent_trials) / count
    device = "GPU" if config.gpus_per_trial else "device"
    shown = [
        f"plan        {count} trials of {trial.steps:,} steps, {config.concurrent_trials} at a "
        f"time, {trial_device(config)}",
        f"computing   {span((hours[0], hours[1]))} {device}-hours at most: {found.source}",
        f"duration    {span((wall * count * found.hours[0], wall * count * found.hours[1]))} hours "
        "if the cluster has room for all that may run at a time",
    ]
    if not config.price_per_gpu_hour:
        shown.append("cost        the hours times --price-per-gpu-hour, which is not given")
    else:
        cost = span((hours[0] * config.price_per_gpu_hour, hours[1] * config.price_per_gpu_hour))
        shown.append(f"cost        {cost} {config.currency}")
    return shown


def table_plan(table: Table, trial: TrainConfig) -> list[str]:
    """Return what a table of a paper trains and how it is measured, a line each.

    Args:
        table: whose rows are trained.
        trial: the training of its first row.
    """
    data, protocol = trial.data, PROTOCOLS[table.protocol]
    shown = [
        f"table       {table.title}; measured on {table.measured_on}",
        f"training    the preset {table.preset} of the paper; here {trial.steps:,} steps of "
        f"{data.batch_size} images at {data.image_size_px} px, crop {data.crop}, masks "
        f"{'+'.join(data.masks.recipes)}",
        f"protocol    {protocol.name}: {', '.join(protocol.metrics)}. {protocol.about}",
        f"evaluated   {images_of(protocol)}, crop {protocol.crop}, masks by group: "
        + "; ".join(f"{g.name} {'+'.join(g.masks.recipes)}" for g in protocol.groups),
    ]
    for row in table.rows:
        changes = ", ".join(f"{name} {value}" for name, value in row.changes.items())
        figures = ", ".join(f"{name} {figure}" for name, figure in row.published.items())
        shown.append(f"row         {row.label}: {changes or 'as it is'}; {figures or 'no figures'}")
    return shown


def images_of(protocol: Protocol) -> str:
    """Return at which size a protocol sees images, and how many samples it takes, in words."""
    side, piece = protocol.image_size_px, protocol.subsampling.side_px
    size = f"images at {side} px" if side else f"original sizes in pieces of {piece} px"
    if protocol.samples == 1:
        return size
    return f"{size}, the best of {protocol.samples} samples by PSNR"


def trial_device(config: SearchConfig) -> str:
    """Describe the device of each trial."""
    several = config.trial_workers > 1
    if not config.gpus_per_trial:
        return f"{config.trial_workers} processes on CPUs each" if several else "on the CPU"
    return f"{config.gpus_per_trial:g} GPU{'s' if several else ''} each"


def announce_search(config: SearchConfig, count: int) -> None:
    """Print the space, the number of trials, and how many are finished."""
    train = config.train
    earlier = [trial for trial in tuning.written_down(config.storage).values() if trial.scores]
    announce(
        f"search over {config.space!r} around {train.model.architecture}: {count} trials of "
        f"{train.steps:,} steps of {train.data.batch_size} images at {train.data.image_size_px} "
        f"px, {config.concurrent_trials} at a time, {trial_device(config)}",
        out=config.storage,
        resumes=f"with {len(earlier)} finished trials" if earlier else "",
        watch=watching(train.tracking, storage.join(config.storage, "trials"), loggers=False),
    )


if __name__ == "__main__":
    run(main)
