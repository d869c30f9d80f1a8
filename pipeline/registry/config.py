"""The configuration of the registry: which MLflow server or database."""

from dataclasses import dataclass

from infill.pipeline import storage

CHAMPION = "champion"
CHALLENGER = "challenger"


@dataclass(frozen=True, kw_only=True)
class RegistryConfig:
    """Where versions are kept."""

    tracking_uri: str = "sqlite:///runs/mlflow.db"
    """An MLflow tracking URI; a relative SQLite path starts at the working directory."""
    artifacts: str = "runs/mlartifacts"
    """Folder or s3:// prefix for the checkpoints; an MLflow server decides this for itself."""

    def __post_init__(self) -> None:
        storage.refuse_password(self.tracking_uri)
