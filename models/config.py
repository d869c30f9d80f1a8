"""Model configurations by name; PyTorch is imported only with the model itself.

Jobs that train nothing read and write configurations too, and start in half the time without it.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

from infill import models
from infill.models.optimizers import SAME, DiscriminatorOptimizerConfig, OptimizerConfig
from infill.models.schedules import DiscriminatorScheduleConfig, ScheduleConfig, factor
from infill.models.tables import Table

__all__ = [
    "ModelConfig",
    "config_class",
    "names",
]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The settings of one architecture; subclasses check them in ``__post_init__``."""

    architecture: ClassVar[str]
    """The folder under ``models/`` that reads this configuration."""
    learning_rate_fields: ClassVar[tuple[str, ...]] = ("learning_rate",)
    """The fields that are learning rates; they grow with a scaled batch."""
    step_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that count steps, schedules apart; a scaled batch divides them."""

    learning_rate: float = 1e-4
    """Learning rate of every network, before the schedule."""
    beta1: float = 0.9
    """Adam's decay of the running mean of the gradient."""
    beta2: float = 0.999
    """Adam's decay of the running mean of the squared gradient."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer of the networks."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate schedule of the networks."""
    discriminator_optimizer: DiscriminatorOptimizerConfig = field(
        default_factory=DiscriminatorOptimizerConfig
    )
    """The optimizer of the discriminators."""
    discriminator_schedule: DiscriminatorScheduleConfig = field(
        default_factory=DiscriminatorScheduleConfig
    )
    """The learning rate schedule of the discriminators."""

    def optimizer_of(self, role: str) -> OptimizerConfig:
        """Return the optimizer settings of a network, by its role."""
        own = self.discriminator_optimizer
        return self.optimizer if role == "generator" or own.name == SAME else own

    def schedule_of(self, role: str) -> ScheduleConfig:
        """Return the learning-rate schedule of a role's network."""
        own = self.discriminator_schedule
        return self.schedule if role == "generator" or own.name == SAME else own

    def base_learning_rate(self, role: str) -> float:
        """Return a role's learning rate before any schedule."""
        return self.learning_rate

    def published_learning_rate(self, role: str, step: int) -> float:
        """Return a role's learning rate at a step as published; constant here."""
        return self.base_learning_rate(role)

    def learning_rate_at(self, role: str, step: int, total_steps: int) -> float:
        """Return a role's learning rate at a step, from 0, of a run of ``total_steps``."""
        schedule = self.schedule_of(role)
        rate = self.base_learning_rate(role)
        if schedule.name == "paper":
            rate = self.published_learning_rate(role, step)
        return rate * factor(schedule, step, total_steps)

    @property
    def share_multiple(self) -> int:
        """A worker's share of a batch is a multiple of this: the parts a step cuts it into."""
        return 1

    @property
    def takes_labels(self) -> bool:
        """Whether the generator takes a label map of the whole image as well."""
        return False

    @classmethod
    def tiny(cls) -> "ModelConfig":
        """Return the smallest one that has every part; tests train it, and searches try it.

        It is the default configuration, unless a subclass has a smaller one.
        """
        return cls()

    @property
    def size_multiple(self) -> int:
        """Height and width the generator accepts are multiples of this."""
        return 1

    @property
    def training_size_px(self) -> int | None:
        """Side of the only images that it trains on, its field ``image_size_px``; None if any."""
        return None


def names() -> list[str]:
    """Return every architecture: the packages under ``models/``."""
    return sorted(m.name for m in pkgutil.iter_modules(models.__path__) if m.ispkg)


def config_class(name: str) -> type[ModelConfig]:
    """Return the configuration of an architecture, without PyTorch.

    It is the class with that name in ``models/NAME/config.py``, or in the package itself if it has
    no such file.

    Raises:
        ValueError: if there is no such folder; the message lists those there are.
    """
    module = _part_of(name, "config") or importlib.import_module(f"infill.models.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ModelConfig)
        and getattr(value, "architecture", "") == name
    )


def spaces(name: str) -> Mapping[str, Mapping[str, tuple[Any, ...]]]:
    """Return the paper's search spaces by name, from ``models/NAME/search_spaces.py``.

    Raises:
        ValueError: if there is no such folder; the message lists those there are.
    """
    found: Mapping[str, Mapping[str, tuple[Any, ...]]]
    found = getattr(_part_of(name, "search_spaces"), "SPACES", {})
    return found


def tables(name: str) -> Mapping[str, Table]:
    """Return the paper's ablation tables by name, from ``models/NAME/search_spaces.py``.

    Raises:
        ValueError: if there is no such folder; the message lists those there are.
    """
    found: Mapping[str, Table]
    found = getattr(_part_of(name, "search_spaces"), "TABLES", {})
    return found


def _part_of(name: str, part: str) -> ModuleType | None:
    """Import ``models/NAME/PART.py``; None if the architecture has no such file."""
    require_known(name)
    module = f"infill.models.{name}.{part}"
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


def require_known(name: str) -> None:
    """Refuse a name that no folder has.

    Raises:
        ValueError: listing those there are.
    """
    if name not in names():
        raise ValueError(f"unknown architecture {name!r}; there are: {', '.join(names())}")


@dataclass(frozen=True, kw_only=True)
class Subsampling:
    """How a large image is inpainted in pieces: every n-th pixel each way is one piece."""

    side_px: int = 0
    """Side of the pieces in pixels, 256 in the paper; 0 inpaints the whole image at once."""
    average: bool = False
    """Whether each piece is inpainted five times (as it is, rotated by 90, 180 and 270 degrees, and
    mirrored) and the results averaged, as the authors' code does; the paper does not mention it."""
    low_pass: bool = False
    """Whether the prediction is halved and doubled again (bicubic), as the authors' code does; the
    paper does not mention it."""

    def __post_init__(self) -> None:
        """Refuse an impossible side.

        Raises:
            ValueError: naming the field.
        """
        if self.side_px < 0:
            raise ValueError(f"side_px must not be negative: {self.side_px}")
        if not self.side_px and (self.average or self.low_pass):
            raise ValueError("average and low_pass go with pieces: give side_px, 256 in the paper")
