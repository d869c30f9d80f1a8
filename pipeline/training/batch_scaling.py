"""Raise the global batch to one that all workers share, with learning rates and schedules.

A preset's batch is its paper's, 8 to 32 samples for most, which 32 or 256 workers cannot share. A
batch k times as large sees the same samples in a k-th of the steps. The learning rates of that
training are k times the preset's by the linear rule (Goyal et al. 2017), or the square root of k
times by the rule for Adam (Krizhevsky 2014; Malladi et al. 2022). They rise from 0 over the first
steps, because the rules hold only once the weights change slowly. Adam's decays stay.
"""

import math
from dataclasses import fields, replace
from typing import Any

from infill.models.config import ModelConfig
from infill.pipeline.training.config import OFF, TrainConfig

WARMUP_SHARE = 0.05
"""Share of the steps over which the learning rates rise, if the preset has no warm-up."""


def scaled(config: TrainConfig) -> TrainConfig:
    """Return the configuration with a batch that all workers share.

    The batch rises to the next multiple of the number of workers (times ``accumulate``, and a
    multiple of ``data.masks_per_image``). Everything that counts steps is divided by the same
    factor k: ``steps``, checkpoints and sample grids, and the model's schedules. The EMA's decay is
    taken to the power of k. The result has ``scale_batch`` off, so that scaling it again changes
    nothing. Without ``scale_batch`` the configuration is returned as it is.
    """
    if config.scale_batch == OFF:
        return config
    batch = shared_batch(config)
    if batch == config.data.batch_size:
        return replace(config, scale_batch=OFF)
    factor = batch / config.data.batch_size
    steps = math.ceil(config.steps / factor)
    return replace(
        config,
        scale_batch=OFF,
        data=replace(config.data, batch_size=batch),
        model=_scaled_model(config.model, factor, rate_factor(config.scale_batch, factor), steps),
        steps=steps,
        save_every_steps=_divided(config.save_every_steps, factor),
        sample_every_steps=_divided(config.sample_every_steps, factor),
        ema_decay=config.ema_decay**factor,
    )


def shared_batch(config: TrainConfig) -> int:
    """Return the smallest batch, at least the configured one, that all workers share equally."""
    parts = max(config.num_workers, 1) * config.accumulate * config.model.share_multiple
    unit = math.lcm(parts, config.data.masks_per_image)
    return -(-config.data.batch_size // unit) * unit


def rate_factor(rule: str, factor: float) -> float:
    """Return the factor of the learning rates for a batch that is ``factor`` times as large."""
    return factor if rule == "linear" else math.sqrt(factor)


def scaling_line(before: TrainConfig, after: TrainConfig) -> str:
    """Return what :func:`scaled` has changed, in one line; "" if nothing."""
    if before.data.batch_size == after.data.batch_size:
        return ""
    factor = after.data.batch_size / before.data.batch_size
    return (
        f"batch scaled from {before.data.batch_size} to {after.data.batch_size} samples "
        f"({before.scale_batch} rule): learning rates x "
        f"{rate_factor(before.scale_batch, factor):.4g} after a warm-up of "
        f"{after.model.schedule.warmup_steps:,} steps, {before.steps:,} steps become "
        f"{after.steps:,}"
    )


def _scaled_model(model: ModelConfig, factor: float, rate: float, steps: int) -> ModelConfig:
    warmup = max(1, round(steps * WARMUP_SHARE))
    changes: dict[str, Any] = {
        name: getattr(model, name) * rate for name in model.learning_rate_fields
    }
    changes |= {name: _scaled_steps(getattr(model, name), factor) for name in model.step_fields}
    for name in ("schedule", "discriminator_schedule"):
        schedule = getattr(model, name)
        if schedule == type(schedule)() and name == "discriminator_schedule":
            continue  # The generator's, which is scaled.
        scaled_fields = {
            field.name: _scaled_steps(getattr(schedule, field.name), factor)
            for field in fields(schedule)
            if field.name.endswith("_steps")
        }
        scaled_fields["warmup_steps"] = scaled_fields["warmup_steps"] or warmup
        changes[name] = replace(schedule, **scaled_fields)
    return replace(model, **changes)


def _scaled_steps(steps: Any, factor: float) -> Any:
    if isinstance(steps, tuple):
        return tuple(_divided(step, factor) for step in steps)
    return steps and _divided(steps, factor)  # 0 and None mean never, or to the end.


def _divided(steps: int, factor: float) -> int:
    return max(1, round(steps / factor))
