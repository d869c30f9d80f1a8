"""Model configurations by name; PyTorch is imported only with the model itself.

Jobs that train nothing read and write configurations too, and start in half the time without it.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import ClassVar

from infill import models


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The numbers of one paper. Subclasses refuse impossible values in ``__post_init__``."""

    architecture: ClassVar[str]
    """The folder under ``models/`` that reads this configuration."""

    @property
    def size_multiple(self) -> int:
        """Height and width the generator accepts are multiples of this."""
        return 1


def names() -> list[str]:
    """Return every architecture: the folders under ``models/`` that have a ``networks`` module."""
    return sorted(m.name for m in pkgutil.iter_modules(models.__path__) if m.ispkg)


def config_class(name: str) -> type[ModelConfig]:
    """Import ``models/NAME`` and return the class of its numbers.

    Raises:
        ValueError: if there is no such folder; the message lists those there are.
    """
    require_known(name)
    found: type[ModelConfig] = importlib.import_module(f"infill.models.{name}").ARCHITECTURE.config
    return found


def require_known(name: str) -> None:
    """Refuse a name that no folder has.

    Raises:
        ValueError: listing those there are.
    """
    if name not in names():
        raise ValueError(f"unknown architecture {name!r}; there are: {', '.join(names())}")
