"""Learning-rate schedules by name: a factor of the base learning rate at each step.

To add one, write a function here and give it a line in ``SCHEDULES``. PyTorch is not imported.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from infill.models.optimizers import SAME, require_defaults


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes over a run; a function of the step alone, so it resumes."""

    name: str = "paper"
    """The schedule: "paper" as published, with the model's own fields for drops or decay;
    "constant"; "cosine" to the end of the run; or "step", which multiplies by drop_factor at each
    of drop_steps."""
    warmup_steps: int = 0
    """Number of steps over which the learning rate rises linearly from 0; works with every
    schedule."""
    decay_steps: int = 0
    """For "cosine": the step at which the lowest rate is reached; 0 means the run's last step."""
    final_factor: float = 0.0
    """For "cosine": the lowest rate, as a share of the learning rate."""
    drop_steps: tuple[int, ...] = ()
    """For "step": the steps at which the rate drops."""
    drop_factor: float = 0.1
    """For "step": the factor of the rate at each drop."""

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(
                f"schedule {self.name!r} is unknown; there are: {', '.join(SCHEDULES)}"
            )
        for field in ("warmup_steps", "decay_steps"):
            if getattr(self, field) < 0:
                raise ValueError(f"schedule.{field} must be 0 or more, not {getattr(self, field)}")
        if not 0 <= self.final_factor <= 1:
            raise ValueError(f"schedule.final_factor must be in [0, 1], not {self.final_factor}")
        if self.drop_factor <= 0:
            raise ValueError(f"schedule.drop_factor must be positive, not {self.drop_factor}")
        if self.name == "step" and not self.drop_steps:
            raise ValueError("schedule 'step' needs drop_steps: the steps at which the rate drops")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorScheduleConfig(ScheduleConfig):
    """The discriminators' schedule; "same" is the generator's, with its settings."""

    name: str = SAME
    """The schedule: "same" uses the generator's; or "paper", "constant", "cosine", "step"."""

    def __post_init__(self) -> None:
        if self.name != SAME:
            super().__post_init__()
        else:
            require_defaults(self, "discriminator_schedule")


Schedule = Callable[[ScheduleConfig, int, int], float]
"""Returns the factor for a configuration, a step (from 0) and the run's number of steps."""


def constant(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Return 1; the schedule "paper" multiplies the model's published rate by it."""
    return 1.0


def cosine(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Return half a cosine from 1 after the warm-up to ``final_factor`` (Loshchilov and Hutter).

    Raises:
        ValueError: if neither the configuration nor the run says where it ends.
    """
    end = config.decay_steps or total_steps
    if not end:
        raise ValueError("schedule 'cosine' needs decay_steps where the run has no last step")
    length = max(1, end - config.warmup_steps)
    done = min(1.0, max(0.0, (step - config.warmup_steps) / length))
    return config.final_factor + (1 - config.final_factor) * 0.5 * (1 + math.cos(math.pi * done))


def drops(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Return ``drop_factor`` to the power of the drops so far."""
    return float(config.drop_factor ** sum(step >= drop for drop in config.drop_steps))


SCHEDULES: dict[str, Schedule] = {
    "paper": constant,
    "constant": constant,
    "cosine": cosine,
    "step": drops,
}


def factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Return the factor of the learning rate at a step: warm-up times schedule.

    Raises:
        ValueError: if the schedule's function returns no factor; a negative one would raise the
            losses.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    found = SCHEDULES[config.name](config, step, total_steps)
    if not 0 <= found < math.inf:
        raise ValueError(
            f"schedule {config.name!r} gives the factor {found:g} at step {step}; it must be "
            "finite and 0 or more"
        )
    return warmup * found
