"""The lineage of a version: data, commit, run and evaluation."""

import json
from dataclasses import dataclass, field
from typing import Any

from infill.pipeline import checkpoints
from infill.pipeline.config import to_dict
from infill.pipeline.errors import require_format
from infill.pipeline.provenance import made_with
from infill.pipeline.registry.latency import Latency

FORMAT = 1
"""Format version of a version's tags; those of earlier releases have none, which is 1."""
_FORMAT = "infill.format"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The lineage of a version."""

    configuration: dict[str, Any]
    """The whole configuration of the training run."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Results of its evaluation."""
    manifest_digest: str = ""
    """Identity of the shards it was trained on."""
    mask_recipe: dict[str, Any] = field(default_factory=dict)
    """The masks it was trained with."""
    git_commit: str = ""
    """Commit of the training code, with ``+changes`` if the tree was not clean; of the running code
    if the checkpoint has none; empty outside a repository."""
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of packages that may affect results."""
    cost: dict[str, Any] = field(default_factory=dict)
    """Number of generator parameters, and the latency where the version was registered."""


def trace_lineage(
    checkpoint: str, scores: dict[str, Any] | None = None, cost: Latency | None = None
) -> Lineage:
    """Collect the lineage of a checkpoint, from the checkpoint or else from this process.

    Args:
        checkpoint: the checkpoint's directory.
        scores: results of its evaluation.
        cost: its measured size and latency.

    Raises:
        UserError: if there is no checkpoint, or it is damaged.
    """
    configuration, state = checkpoints.read_config(checkpoint), checkpoints.read_state(checkpoint)
    origin = state.get("made_with") or made_with()
    return Lineage(
        configuration=configuration,
        scores=scores or {},
        manifest_digest=str(state.get("data_digest", "")),
        mask_recipe=configuration.get("data", {}).get("masks", {}),
        git_commit=origin["git_commit"],
        packages=origin["packages"],
        cost=to_dict(cost) if cost else {},
    )


def lineage_tags(lineage: Lineage) -> dict[str, str]:
    """Return a lineage as tags, without empty fields."""
    return {_FORMAT: str(FORMAT)} | {
        f"infill.{name}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in to_dict(lineage).items()
        if value
    }


def lineage_from(tags: dict[str, str]) -> Lineage:
    """Read a lineage back from its tags.

    Raises:
        UserError: if a later release wrote them in another format.
    """
    require_format(int(tags.get(_FORMAT, 1)), FORMAT, "a version of the registry")

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
        cost=of("cost"),
    )
