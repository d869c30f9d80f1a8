"""The run directory: its data, whether a run may resume there, its best checkpoint."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from infill.models.config import ModelConfig
from infill.pipeline import checkpoints, storage, temporary_folders
from infill.pipeline.config import RENAMED_FIELDS, flatten, from_dict, override
from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig, names_tars
from infill.pipeline.metrics.metric_registry import DECIDING
from infill.pipeline.training.config import TrainConfig

SCORE = DECIDING.name
"""The validation score that selects a run's best checkpoint; higher is better."""
ABANDONED_AFTER_S = 900.0
"""Age in seconds from which an unfinished checkpoint in an object store counts as abandoned."""


def find_sets(shards: str, validation_shards: str = "") -> tuple[str, str | None]:
    """Return the training set and the validation set (or None) at a location of shards.

    Args:
        shards: a shard set, a folder with one for each split, or tars by name.
        validation_shards: the validation set, if it is not the val split there.
    """
    shards = storage.absolute(shards)
    training, validation = storage.join(shards, "train"), storage.join(shards, "val")
    if names_tars(shards) or not storage.exists(training):
        training, validation = shards, ""
    if validation_shards:
        return training, storage.absolute(validation_shards)
    return training, validation if validation and storage.exists(validation) else None


FREE = {
    "shards",
    "validation_shards",
    "num_decode_workers",
    "prefetch_batches",
    "loader",
    "verify_checksums",
    "skip_damaged",
    "cache_folder",
    "cache_size_gb",
}
"""Fields of ``data`` that a resumed run may change: the samples are the same."""
NEWER_FIELDS = "newer_fields"
"""Entry of a checkpoint's state: fields that its run did not have when it began."""


def resumed(config: TrainConfig, newest: str, log: Callable[[str], None] = print) -> TrainConfig:
    """Return the configuration with which a run goes on; it leaves the run as it was.

    Fields that are newer than the run take their defaults, whatever a preset or the command line
    says now, and this is logged; renamed ones have their new names.

    Args:
        config: what is asked for.
        newest: the run's newest checkpoint.
        log: prints one line for the user.

    Raises:
        UserError: if another model, data configuration or seed is asked for, naming the first field
            that differs.
    """
    newer = newer_fields(config, newest)
    kept: dict[str, Any] = {}
    for name, old, new in _differences(config, newest):
        if name not in newer:
            raise UserError(
                f"{config.storage} holds a run with another {name}; "
                "give a new --storage, or delete that folder to start over"
            )
        kept[name] = old
        log(f"{name} is newer than this run, which goes on with {old!r} in place of {new!r}")
    return override(config, kept)


def require_same_run(config: TrainConfig) -> None:
    """Refuse a folder that holds another run, as :func:`resumed` does, before Ray starts.

    A checkpoint that cannot be read is left to the training, which resumes from an earlier one.
    """
    for step in checkpoints.steps(config.storage)[-1:]:
        newest = checkpoints.step_location(config.storage, step)
        try:
            newer_fields(config, newest)
        except UserError:
            return
        resumed(config, newest, lambda line: None)


def newer_fields(config: TrainConfig, checkpoint: str) -> list[str]:
    """Return the fields, by dotted name, that a run did not have when it began.

    Args:
        config: of the run.
        checkpoint: one of its checkpoints.
    """
    before = checkpoints.read_config(checkpoint)
    marked = checkpoints.read_state(checkpoint).get(NEWER_FIELDS, [])
    lacking = [name for name in _compared_in(config) if not _has(before, name)]
    return sorted({*marked, *lacking})


def _compared(model: ModelConfig, data: BatchConfig, seed: int, ema_decay: float) -> dict[str, Any]:
    """Return the values that a resumed run must share, by dotted name."""
    values: dict[str, Any] = {"model.architecture": model.architecture}
    for part, config in (("model", model), ("data", data)):
        for name, value in flatten(config).items():
            if name not in FREE:
                values[f"{part}.{name}"] = value
    return values | {"seed": seed, "ema_decay": ema_decay}


def _compared_in(config: TrainConfig) -> dict[str, Any]:
    return _compared(config.model, config.data, config.seed, config.ema_decay)


def _has(values: Any, name: str) -> bool:
    """Return whether a saved configuration has a field, under its present name or an old one."""
    head, _, rest = name.partition(".")
    if not isinstance(values, dict):
        return True  # A whole that an earlier release saved in another form.
    renamed = {RENAMED_FIELDS.get(field, field): field for field in values}
    field = head if head in values else renamed.get(head)
    return field is not None and (not rest or _has(values[field], rest))


def _differences(config: TrainConfig, newest: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield each field that differs by name, with the run's value and the one asked for."""
    saved = checkpoints.read_config(newest)
    model = from_dict(type(config.model), saved["model"], f"{newest}: model")
    data = from_dict(BatchConfig, saved["data"], f"{newest}: data")
    old = _compared(model, data, saved.get("seed", 0), saved.get("ema_decay", 0.0))
    for name, new in _compared_in(config).items():
        if old.get(name) != new:
            yield name, old.get(name), new


def require_same_optimizers(config: TrainConfig) -> None:
    """Refuse to resume from a checkpoint whose optimizer state belongs to another optimizer.

    Raises:
        UserError: naming the field that differs.
    """
    values = checkpoints.read_config(config.resume_from)["model"]
    before = from_dict(type(config.model), values, f"{config.resume_from}: model")
    for role, field in (("generator", "optimizer"), ("discriminator", "discriminator_optimizer")):
        old, new = (model.optimizer_of(role).name for model in (before, config.model))
        if old != new:
            raise UserError(
                f"model.{field}.name is {old!r} in {config.resume_from} and {new!r} here, which "
                "cannot use its optimizer state; --init-from takes the weights alone"
            )


def delete_unfinished(run: str) -> None:
    """Delete checkpoints that killed processes of a run left unfinished, and none being written.

    In an object store those have no checksums, and no new object for :data:`ABANDONED_AFTER_S`.
    """
    if not storage.is_remote(run):
        temporary_folders.delete_unfinished(Path(storage.absolute(run), "checkpoints"))
        return
    for step in checkpoints.steps(run):
        location = checkpoints.step_location(run, step)
        files = storage.infos(location)
        newest_s = max((file.mtime_ns or 0 for file in files), default=0) / 1e9
        finished = any(file.base_name == checkpoints.CHECKSUMS for file in files)
        if not finished and time.time() - newest_s > ABANDONED_AFTER_S:
            storage.remove(location)


def best(run: str) -> tuple[str, dict[str, float]]:
    """Return a run's best intact checkpoint by :data:`SCORE`, and its validation scores.

    Raises:
        UserError: if the run has no checkpoint.
    """
    return checkpoints.best(run, SCORE)
