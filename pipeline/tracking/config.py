"""Where runs, scores and versions are written down: one configuration of MLflow for all."""

from dataclasses import dataclass

from infill.pipeline import storage
from infill.pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MLflowConfig:
    """MLflow's server or database, and where its files lie."""

    tracking_uri: str = "sqlite:///runs/mlflow.db"
    """MLflow's server or database; a relative SQLite path starts at the working directory."""
    artifacts: str = "runs/mlartifacts"
    """Folder or s3:// prefix for files; an MLflow server decides this for itself."""

    def __post_init__(self) -> None:
        storage.refuse_password(self.tracking_uri)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(MLflowConfig):
    """Where a run's numbers and pictures go; ``tracking_uri`` "" keeps nothing in MLflow."""

    experiment: str = "infill"
    """The MLflow experiment, or Weights & Biases project, that collects the runs."""
    parent: str = ""
    """The MLflow run that this one is part of, as a trial is of a search."""
    run_name: str = ""
    """Of the run in MLflow, the time being added; architecture and preset if empty."""
    loggers: tuple[str, ...] = ("terminal", "jsonl", "mlflow", "prometheus")
    """What takes every record: "terminal", "jsonl", "mlflow", "prometheus", "tensorboard" (writes
    into the run's folder) and "wandb" (Weights & Biases; needs ``infill[wandb]``)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.loggers)) < len(self.loggers):
            raise UserError(f"tracking.loggers names one twice: {', '.join(self.loggers)}")
