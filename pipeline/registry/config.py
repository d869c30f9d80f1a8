"""The configuration of the registry: which MLflow server or database."""

from dataclasses import dataclass

from infill.pipeline.tracking.config import MLflowConfig

CHAMPION = "champion"
"""Alias of the version in production."""
CHALLENGER = "challenger"
"""Alias of a version that may follow it."""


@dataclass(frozen=True, kw_only=True)
class RegistryConfig(MLflowConfig):
    """The MLflow registry that holds versions and their checkpoints."""
