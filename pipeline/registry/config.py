"""The configuration of the registry: which MLflow server or database."""

from dataclasses import dataclass

from infill.pipeline.tracking.config import MLflowConfig

CHAMPION = "champion"
CHALLENGER = "challenger"


@dataclass(frozen=True, kw_only=True)
class RegistryConfig(MLflowConfig):
    """The MLflow registry that holds versions and their checkpoints."""
