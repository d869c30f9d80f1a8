"""The trials of a search with their full configuration, and those found on disk.

A trial's folder is named after its values, so a restarted search finds the finished trials and
resumes the interrupted ones; no trial runs twice.
"""

import hashlib
import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from infill.models.tables import Table
from infill.pipeline import storage
from infill.pipeline.config import flatten, override
from infill.pipeline.errors import UserError, require_format
from infill.pipeline.training import TrainConfig, scaled
from infill.pipeline.tuning.config import Trial, TuneConfig
from infill.pipeline.tuning.spaces import Range, Space, num_combinations, sample, unseen

BOOK = "trial.json"
"""File in a trial's run that holds the trial's values and result."""
FORMAT = 1
"""Format version of that file; those of earlier releases have none, which is 1."""
NOT_STARTED = "not started: the search's time was up"
NOT_FINISHED = "not finished: the search's time was up"
TRIALS = "trials"
Planned = tuple[Trial, TrainConfig]
Search = TypeVar("Search", bound=TuneConfig)


def plan(config: TuneConfig, space: Space | Table) -> list[Planned]:
    """Return every trial with its complete training configuration, checked.

    No combination is tried twice: a space of fewer than ``num_trials`` has fewer trials.
    Combinations that a searcher proposes are not known beforehand; one of them is planned for all,
    so that names and values are checked.

    Raises:
        UserError: if a name is unknown or the space is empty.
        ValueError: if a combination is impossible.
    """
    seeds = range(config.train.seed, config.train.seed + config.seeds)
    if isinstance(space, Table):
        if not config.method.enumerates:
            raise UserError(f"a paper's table is a grid: leave out algorithm {config.algorithm!r}")
        rows = [
            ({f"model.{k}": v for k, v in row.changes.items()}, row.label) for row in space.rows
        ]
    else:
        if not space or not all(isinstance(v, Range) or len(v) for v in space.values()):
            raise UserError(f"the space {config.space!r} has a name without values")
        rows = [(changes, "") for changes in _combinations(config, space)]
    planned = [
        plan_one(config, changes, seed=seed, label=label)
        for changes, label in rows
        for seed in seeds
    ]
    if isinstance(space, Table) or config.method.exchanges:
        return planned
    return list({trial.name: (trial, training) for trial, training in planned}.values())


def _combinations(config: TuneConfig, space: Space) -> list[dict[str, Any]]:
    if config.method.enumerates:
        lists = {name: v for name, v in space.items() if not isinstance(v, Range)}
        if ranges := [name for name in space if name not in lists]:
            raise UserError(
                f"a grid has no ranges, but {ranges[0]} is one: list its values, or choose another "
                "algorithm"
            )
        found = [
            dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())
        ]
        if 0 < config.num_trials < len(found):
            chosen = np.linspace(0, len(found) - 1, config.num_trials).round().astype(int)
            found = [found[index] for index in chosen]
        return found
    count = 1 if config.method.searcher else config.num_trials
    chances = [random.Random(f"{config.seed}/{index}") for index in range(count)]
    if config.method.exchanges:  # Members may begin with equal values.
        return [sample(space, chance) for chance in chances]
    seen: set[str] = set()
    sampled = (unseen(space, seen, chance) for chance in chances)
    return [one for one in sampled if one is not None]


def num_trials(config: TuneConfig, space: Space | Table) -> int:
    """Return the number of trials of a search, which is known before their values are."""
    if not config.method.searcher or isinstance(space, Table):
        return len(plan(config, space))
    return min(config.num_trials, num_combinations(space) or config.num_trials)


def plan_one(config: TuneConfig, changes: Mapping[str, Any], seed: int, label: str = "") -> Planned:
    """Return one combination's trial and its training.

    Raises:
        UserError: if a name is unknown.
        ValueError: if the combination is impossible.
    """
    values = flatten(override(config.train, changes))
    changes = {name: values[name] for name in changes}
    identity = json.dumps([changes, seed] if seed else changes, sort_keys=True, default=str)
    words = [f"{name.rsplit('.', 1)[-1]}={value}" for name, value in changes.items()] or ["as-is"]
    words += [f"seed={seed}"] if config.seeds > 1 else []
    name = "_".join(words)[:80] + "-" + hashlib.sha256(identity.encode()).hexdigest()[:6]
    name = "".join(c if c.isalnum() or c in "=_.-" else "-" for c in name)
    settings = {
        **changes,
        "storage": storage.join(folder(config), name),
        "tracking.run_name": name,
        **config.trial_settings,
        "seed": seed,
    }
    trial = Trial(name=name, changes=dict(changes), seed=seed, label=label)
    return trial, override(config.train, settings)


def share_batch(config: Search) -> Search:
    """Return the search around a training whose batch the processes of a trial can share.

    As :func:`infill.pipeline.training.scaled` for ``num_workers`` processes.
    """
    return replace(config, train=scaled(override(config.train, config.trial_settings)))


def folder(config: TuneConfig) -> str:
    """Return the folder of the trials' runs."""
    return storage.join(storage.absolute(config.storage), TRIALS)


def write_down(config: TuneConfig, trial: Trial) -> None:
    """Store a trial, so that it is not run twice."""
    text = json.dumps(_plain(trial), indent=2) + "\n"
    storage.write(storage.join(folder(config), trial.name, BOOK), text.encode())


def curve_of(config: TuneConfig, trial: Trial) -> dict[str, float]:
    """Return the scores that a trial has reported so far, in this search or an interrupted one."""
    book = storage.join(folder(config), trial.name, BOOK)
    return dict(_read(book).curve) if storage.exists(book) else {}


def written_down(search: str) -> dict[str, Trial]:
    """Return the trials that earlier searches in this folder have started, by name.

    Raises:
        UserError: if the record of one is damaged.
    """
    trials, found = storage.join(storage.absolute(search), TRIALS), {}
    for name in storage.names(trials):
        book = storage.join(trials, name, BOOK)
        if storage.exists(book):
            found[name] = _moved_to(trials, _read(book))
    return found


def _read(book: str) -> Trial:
    try:
        values = json.loads(storage.read(book))
        require_format(values.pop("format", 1), FORMAT, book)
        return replace(Trial(**values), reused=True)
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise UserError(
            f"{book} is damaged: {error}; delete it, and the same search runs this trial again"
        ) from error


def _moved_to(trials: str, trial: Trial) -> Trial:
    """Return a trial whose checkpoint lies below ``trials``, where the search is now."""
    _, below, rest = trial.checkpoint.rpartition(f"/{TRIALS}/")
    return replace(trial, checkpoint=storage.join(trials, rest)) if below else trial


def _plain(trial: Trial) -> dict[str, Any]:
    values = {name: value for name, value in vars(trial).items() if name != "reused"}
    return {"format": FORMAT, **values}
