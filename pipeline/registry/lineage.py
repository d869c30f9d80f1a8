"""Where a version comes from, as it is written beside it."""

import contextlib
import json
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import checkpoints
from pipeline.config import to_dict

PACKAGES = ("infill", "torch", "numpy", "ray", "opencv-python-headless", "albumentations")
"""Packages whose change may change a picture."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a version comes from."""

    configuration: dict[str, Any]
    """The whole configuration of the training run."""
    scores: dict[str, Any] = field(default_factory=dict)
    """What evaluation wrote."""
    manifest_digest: str = ""
    """Identity of the shards it was trained on."""
    mask_recipe: dict[str, Any] = field(default_factory=dict)
    """The masks it was trained with."""
    git_commit: str = ""
    """Of the code, with ``+changes`` if the tree was not clean; empty outside a repository."""
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the packages whose change may change a picture."""


def trace_lineage(checkpoint: str, scores: dict[str, Any] | None = None) -> Lineage:
    """Gather the lineage of a checkpoint, as far as it and this process know it.

    Args:
        checkpoint: the checkpoint's directory.
        scores: what evaluation wrote about it.

    Raises:
        UserError: if there is no checkpoint, or it is damaged.
    """
    configuration = checkpoints.read_config(checkpoint)
    return Lineage(
        configuration=configuration,
        scores=scores or {},
        manifest_digest=str(checkpoints.read_state(checkpoint).get("data_digest", "")),
        mask_recipe=configuration.get("data", {}).get("masks", {}),
        git_commit=git_commit(),
        packages=_packages(),
    )


def git_commit() -> str:
    """Return the commit of this code, ``+changes`` if files differ from it, "" if unknown."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        described = subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):  # no git here, or no repository
        return ""
    return described.stdout.strip()


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def lineage_tags(lineage: Lineage) -> dict[str, str]:
    """Return a lineage as tags; what is empty has none."""
    return {
        f"infill.{name}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in to_dict(lineage).items()
        if value
    }


def lineage_from(tags: dict[str, str]) -> Lineage:
    """Read a lineage back from its tags."""

    def of(name: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(tags.get(f"infill.{name}", "{}"))
        return values

    return Lineage(
        configuration=of("configuration"),
        scores=of("scores"),
        manifest_digest=tags.get("infill.manifest_digest", ""),
        mask_recipe=of("mask_recipe"),
        git_commit=tags.get("infill.git_commit", ""),
        packages=of("packages"),
    )
