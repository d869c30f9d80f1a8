"""Import the released weights of the authors as checkpoints.

A file may be a state dict, a Lightning checkpoint or a whole module of PyTorch, TorchScript,
arrays by name (.npz) or safetensors, at a path, s3:// or https:// address;
``models/weight_files.py`` reads them. Code in a file is never executed.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from infill.pipeline import downloads, storage
from infill.pipeline.config import to_dict
from infill.pipeline.errors import UserError
from infill.pipeline.progress import Log, Progress

if TYPE_CHECKING:
    from infill.models.architecture import Released

OPTIMIZER = re.compile(r"optim", re.IGNORECASE)
"""What the names of optimizers' states begin with in released files."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """The released files, their architecture, and where the checkpoint goes."""

    architecture: str
    """The architecture: the name of a folder under ``models/``."""
    weights: Annotated[tuple[str, ...], tyro.conf.arg(name="from")] = ()
    """The released files; generator and discriminator may be in one file or in several."""
    sha256: tuple[str, ...] = ()
    """SHA-256 of the files, in the same order; needed for downloads."""
    out: str = ""
    """Folder or s3:// prefix for the checkpoint; ``runs/imported/ARCHITECTURE`` if empty."""
    image_size_px: int | None = None
    """Side in pixels of the images that the weights were trained on, which evaluation and serving
    use as the default; None takes the size that the released files were trained for."""

    @property
    def location(self) -> str:
        """Absolute location of the checkpoint."""
        return storage.absolute(self.out or f"runs/imported/{self.architecture}")


def import_weights(config: ImportConfig, log: Log = print) -> str:
    """Translate released files and write a checkpoint.

    Returns:
        The checkpoint's location.

    Raises:
        UserError: if a file is missing or belongs to another network; the tensor is named.
    """
    if not config.weights:
        raise UserError("give the released files: --from FILE [FILE ...]")
    if config.sha256 and len(config.sha256) != len(config.weights):
        raise UserError(
            f"--sha256 names {len(config.sha256)} checksums for {len(config.weights)} files; "
            "give one for each, in the same order"
        )
    with Progress(f"import of {config.architecture}", log=log):
        return _import(config)


def _import(config: ImportConfig) -> str:
    from infill.pipeline import checkpoints

    released = translate(config.weights, config.architecture, config.sha256)
    size = config.image_size_px or released.image_size_px
    roots = {"model": to_dict(released.config), "data": {"image_size_px": size}}
    origin = {"step": 0, "imported_from": list(config.weights)}
    checkpoints.export(config.location, released.states, roots, origin)
    return config.location


def translate(
    weights: Sequence[str], architecture: str | None, sha256: Sequence[str] = ()
) -> "Released":
    """Translate released files to our networks' names.

    Args:
        weights: the files; generator and discriminator may be in one or in several.
        architecture: the name of a folder under ``models/``; None tries all.
        sha256: their checksums, in the same order; needed for downloads.

    Raises:
        UserError: if a file is missing, or belongs to another network (the tensor is named), or
            fits none or several of ours.
    """
    contents: dict[str, Any] = {}
    for location, checksum in zip(weights, sha256 or (None,) * len(weights), strict=True):
        found = _without_optimizers(read_tensors(downloads.fetch(location, checksum)))
        if twice := sorted(set(found) & set(contents)):
            raise UserError(f"{location} holds {twice[0]!r}, which an earlier file holds already")
        _refuse_other_than_tensors(found, location)
        contents.update(found)
    called = ", ".join(weights)
    released = _read_release(architecture or _recognized(called, contents), called, contents)
    if "generator" not in released.states:
        raise UserError(f"{called}: no generator in it; name its file as well")
    return released


def _read_release(name: str, called: str, contents: Mapping[str, Any]) -> "Released":
    """Translate the contents of a file, or of the state dict in it if that is what fits."""
    from infill.models.architecture import load
    from infill.models.weight_files import network_of

    try:
        return load(name).read_release(contents)
    except ValueError as error:
        inner = network_of(contents)
        if inner is not contents:
            return _read_release(name, called, inner)
        if bare := _without_common_prefix(contents):
            with suppress(UserError):
                return _read_release(name, called, bare)
        raise UserError(f"{called}: {error}") from error


def _without_common_prefix(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors without the first part of their names, if it is one for all, such as "netG".

    Trainers keep a network under a name of their own; empty if there is no such part.
    """
    parts = {str(name).partition(".")[0] for name in contents}
    dotted = all("." in str(name) for name in contents)
    if len(parts) != 1 or not dotted or any(isinstance(v, Mapping) for v in contents.values()):
        return {}
    return {name.partition(".")[2]: value for name, value in contents.items()}


def _recognized(called: str, contents: Mapping[str, Any]) -> str:
    """Return the architecture whose released names and shapes match."""
    from infill.models.config import names

    fitting = [name for name in names() if _reads(name, contents)]
    if len(fitting) == 1:
        return fitting[0]
    whose = f"fits {' and '.join(fitting)}" if fitting else "is of no released network known here"
    raise UserError(f"{called} {whose}; name the architecture: {', '.join(names())}")


def _reads(name: str, contents: Mapping[str, Any]) -> bool:
    try:
        return "generator" in _read_release(name, "", contents).states
    except ValueError:
        return False


def _without_optimizers(found: Mapping[str, Any]) -> dict[str, Any]:
    """Pass over the states of optimizers, known by name or by form, which no network reads."""
    return {
        name: value
        for name, value in found.items()
        if not OPTIMIZER.match(str(name)) and not _is_optimizer(value)
    }


def _is_optimizer(value: Any) -> bool:
    """Return whether a value is, or holds only, what optimizers' ``state_dict`` returns."""
    if not isinstance(value, Mapping):
        return False
    inner = list(value.values())
    return {"state", "param_groups"} <= set(value) or (
        bool(inner) and all(map(_is_optimizer, inner))
    )


def _refuse_other_than_tensors(found: Mapping[str, Any], location: str) -> None:
    """Refuse a state dict that holds other values than tensors."""
    import numpy as np
    import torch

    tensors = (torch.Tensor, np.ndarray)
    nested = [value for value in found.values() if isinstance(value, Mapping)]
    others = [name for name in found if not isinstance(found[name], (*tensors, Mapping))]
    if others and any(isinstance(value, tensors) for value in found.values()):
        kind = type(found[others[0]]).__name__
        raise UserError(f"{location}: {others[0]} is not a tensor but of type {kind}; leave it out")
    for value in nested:
        _refuse_other_than_tensors(value, location)


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the contents of a file of weights: tensors or arrays by name, perhaps nested.

    Raises:
        UserError: if it holds no weights that can be read; it is named for what it is.
    """
    from infill.models.weight_files import WeightFileError, read_weights

    try:
        return read_weights(path)
    except WeightFileError as error:
        raise UserError(str(error)) from error
