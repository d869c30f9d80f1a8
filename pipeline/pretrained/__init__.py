"""Models that come with the package: ``infill-base`` fills holes without any training.

Each is a folder beside this file: an exported checkpoint, its model card (``README.md``) and the
list of the photographs it was trained on.
"""

from dataclasses import dataclass
from pathlib import Path

from infill.pipeline.errors import UserError

__all__ = ["DEFAULT", "PRETRAINED", "Pretrained", "find_pretrained", "shown_name"]


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """One model of the package."""

    name: str
    version: str
    """Number of the weights; another number means other weights under the same name."""

    licence: str = "Apache-2.0"
    """SPDX name of the licence of the weights."""

    @property
    def location(self) -> str:
        """The directory of its checkpoint on this machine."""
        return str(Path(__file__).parent / self.name)


DEFAULT = "infill-base"
"""The model of the commands that are not given another."""
PRETRAINED = {model.name: model for model in (Pretrained(name=DEFAULT, version="2"),)}
"""The models of the package by name."""


def find_pretrained(reference: str) -> Pretrained | None:
    """Return the model that ``infill-base`` or ``infill-base@1`` means; None for other references.

    The name means this model even where a folder has the same name; ``./infill-base`` is the
    folder.

    Raises:
        UserError: if the package has another version of it.
    """
    name, _, version = reference.partition("@")
    model = PRETRAINED.get(name)
    if model is not None and version not in ("", model.version):
        raise UserError(f"this package has {name}@{model.version} alone, not {reference}")
    return model


def shown_name(location: str) -> str:
    """Return a checkpoint's location for messages; a model of the package by its name."""
    here = Path(location).resolve()
    models = PRETRAINED.values()
    return next((m.name for m in models if Path(m.location).resolve() == here), location)
