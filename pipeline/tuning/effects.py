"""Refuse a search space with a field that changes nothing: its trials would be equal.

Each value of a field is tried on a small network of the same architecture, which takes three steps
on the same batch. A field has an effect if a loss term, or a learning rate of the run, differs
between two of its values.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from infill.models.architecture import Batch, load
from infill.models.config import ModelConfig
from infill.models.seeding import seeded
from infill.pipeline.config import flatten, override
from infill.pipeline.errors import UserError
from infill.pipeline.training import TrainConfig
from infill.pipeline.tuning.spaces import Range, Space

LATE_STEP = 10_000_000
"""A step after every stage and schedule of the papers."""
RATES_READ = 500
"""Number of steps, spread over the run, whose learning rates are compared."""
Observed = tuple[float, ...]


def require_effects(space: Space, trial: TrainConfig, small: TrainConfig) -> None:
    """Check that every field of the model that a space varies has an effect.

    A value that the small network cannot take counts as one with an effect. Fields outside the
    model (data, steps) are not checked.

    Args:
        space: the values to try, or their range, by dotted name.
        trial: the training of the first trial, which has the first values.
        small: a training of the same architecture that takes seconds; its widths, depths and files
            of weights are used, and everything else is the trial's.

    Raises:
        UserError: naming the field and what may have to be set beside it.
    """
    tried = {name: _values(values) for name, values in space.items()}
    varied = [name for name, values in tried.items() if len(values) > 1]
    for name in varied:
        if not name.startswith("model."):
            continue
        others = [{key: values[index] for key, values in tried.items()} for index in (0, -1)]
        if not any(_has_effect(name, tried[name], base, trial, small) for base in others):
            raise UserError(
                f"{name} has no effect here: {', '.join(map(str, tried[name]))} give equal "
                "losses, so its trials would be equal; leave it out, or set in the space what it "
                "belongs to (such as a variant, or a weight above 0)"
            )


def _values(values: Any) -> list[Any]:
    return [values.low, values.high] if isinstance(values, Range) else list(values)


def _has_effect(
    name: str, values: list[Any], base: Mapping[str, Any], trial: TrainConfig, small: TrainConfig
) -> bool:
    """Return whether two values differ, all other fields being those of ``base``."""
    fields = {key: value for key, value in base.items() if key.startswith("model.")}
    varied = {key.removeprefix("model.") for key in fields}
    whole = {value for value in values if isinstance(value, int) and value > 1}
    steps = sorted({0, 1, LATE_STEP, *whole})
    seen: list[Observed] = []
    first: Iterator[Observed] = iter(())
    for index, value in enumerate(values):
        try:
            model = override(trial, {**fields, name: value}).model
            found = _observe(model, _narrow(model, small.model, varied), trial, small, steps)
            if not index:
                first = found
                continue
            for index, one in enumerate(found):
                if index == len(seen):
                    seen.append(next(first))
                if one != seen[index]:
                    return True
        except (ValueError, UserError):
            return True
    return False


def _narrow(model: ModelConfig, small: ModelConfig, varied: Collection[str]) -> ModelConfig:
    """Return a model with the widths, depths and files of weights of a small one.

    Args:
        model: of a trial.
        small: of the same architecture.
        varied: fields that are the trial's, whatever they are.
    """
    fields = flatten(model)
    chosen = {
        name: value
        for name, value in fields.items()
        if name in varied
        or (
            isinstance(value, bool | float | str)
            and not _names_a_file(name, fields)
            and not _is_start(name)
        )
    }
    files = {
        name: "random"
        for name, value in flatten(small).items()
        if name == "perceptual_weights" and value is None
    }
    return override(small, {**chosen, **files})


def _names_a_file(name: str, fields: Collection[str]) -> bool:
    """Return whether a field is a file of weights, or chooses what such a file holds."""
    return name.endswith(("_weights", "_sha256")) or f"{name}_weights" in fields


def _is_start(name: str) -> bool:
    """Return whether a field scales the first weights.

    DeepGIN's first outputs are so small that rounding hides what they are made from.
    """
    return name.startswith("initial_")


def _observe(
    model: ModelConfig,
    narrow: ModelConfig,
    trial: TrainConfig,
    small: TrainConfig,
    steps: list[int],
) -> Iterator[Observed]:
    """Yield learning rates of both roles over the run, then the loss terms of a few steps.

    The steps start from the same weights and see the same batch.
    """
    read = range(0, max(trial.steps, 1), max(1, trial.steps // RATES_READ))
    roles = ("generator", "discriminator")
    yield tuple(model.learning_rate_at(role, at, trial.steps) for role in roles for at in read)
    side, count = small.data.image_size_px, 2 * max(1, narrow.share_multiple)
    random = torch.Generator().manual_seed(0)
    image = torch.rand(count, 3, side, side, generator=random) * 2 - 1
    mask = torch.zeros(count, 1, side, side)
    mask[..., side // 4 : side // 4 + side // 2, side // 4 : side // 4 + side // 2] = 1
    with seeded(0):
        objective = load(model.architecture).objective(narrow, lambda network: network)
    objective.total_steps = LATE_STEP + 1
    for step in steps:
        with seeded(step):
            labels = image if narrow.takes_labels else None
            batch = Batch(image=image, mask=mask, labels=labels, step=step, seed=step)
            terms = objective.step_with_accumulation(batch)
        yield tuple(float(value) for value in terms.values())
