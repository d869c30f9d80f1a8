"""Where runs, scores and versions are written down: one configuration of MLflow for all."""

from dataclasses import dataclass

from infill.pipeline import storage
from infill.pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MLflowConfig:
    """MLflow's server or database, and where its files lie."""

    tracking_uri: str = "sqlite:///runs/mlflow.db"
    """Address of the MLflow server or database. A relative SQLite path starts at the working
    directory. PostgreSQL (``postgresql://user@host/name``, password in PGPASSWORD) needs
    ``infill[postgres]``."""
    artifacts: str = "runs/mlartifacts"
    """Folder or s3:// prefix for MLflow's artifacts; an MLflow server has its own and ignores
    this."""

    def __post_init__(self) -> None:
        storage.refuse_password(self.tracking_uri)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(MLflowConfig):
    """Where a run's metrics and images are logged; an empty ``tracking_uri`` turns MLflow off."""

    experiment: str = "infill"
    """Name of the MLflow experiment, or Weights & Biases project, that collects the runs."""
    parent: str = ""
    """ID of the MLflow run that this run is a child of, as a trial is of a search. Empty: none."""
    run_name: str = ""
    """Name of the run in MLflow; the time is appended. Empty: architecture and preset."""
    loggers: tuple[str, ...] = ("terminal", "jsonl", "mlflow", "prometheus")
    """The loggers that receive every record: "terminal", "jsonl", "mlflow", "prometheus",
    "tensorboard" (writes into the run's folder) and "wandb" (Weights & Biases; needs
    ``infill[wandb]``)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.loggers)) < len(self.loggers):
            raise UserError(f"tracking.loggers names one twice: {', '.join(self.loggers)}")
        if self.loggers != type(self).loggers:
            from infill.pipeline.tracking.loggers import require_known

            require_known(self.loggers)
