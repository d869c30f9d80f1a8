"""The one access to MLflow: its client, its experiments, its errors, and its logging."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infill.pipeline import database_addresses, storage
from infill.pipeline.errors import UserError
from infill.pipeline.progress import shows_everything
from infill.pipeline.tracking.config import MLflowConfig


def mlflow_client(config: MLflowConfig) -> Any:
    """Return an MLflow client for runs and registered versions; create a missing SQLite database.

    MLflow is imported here, as its import takes over a second.
    """
    quieten_mlflow()
    from mlflow import MlflowClient

    uri = database_addresses.database_uri(config.tracking_uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def mlflow_error() -> type[Exception]:
    """Return the type of MLflow's exceptions."""
    quieten_mlflow()
    from mlflow.exceptions import MlflowException

    error: type[Exception] = MlflowException
    return error


@contextmanager
def mlflow_errors(what: str, advice: str = "") -> Iterator[None]:
    """Turn MLflow's exceptions into one sentence.

    Args:
        what: the start of the sentence, such as "the registry at sqlite:///runs/mlflow.db
            answered".
        advice: the end of the sentence, with the remedy.
    """
    try:
        yield
    except mlflow_error() as error:
        raise UserError(f"{what}: {str(error).splitlines()[0]}{advice}") from error


def experiment_id(client: Any, config: MLflowConfig, name: str) -> str:
    """Return an experiment's id; create a missing experiment."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifact_uri(config)))
        except mlflow_error():  # another process has just created it
            found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


def _artifact_uri(config: MLflowConfig) -> str | None:
    """Return the location of an experiment's files; None leaves it to a server."""
    if config.tracking_uri.startswith(("http://", "https://")):
        return None
    if storage.is_remote(config.artifacts):
        return config.artifacts
    return Path(storage.absolute(config.artifacts)).as_uri()


def quieten_mlflow() -> None:
    """Turn off MLflow's telemetry and progress bars, and shorten its retries."""
    import logging

    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3"),  # with backoff: about ten seconds
    ):
        os.environ.setdefault(name, value)
    if shows_everything():
        return
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
