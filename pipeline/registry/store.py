"""The MLflow server or database of the registry, and the files of its versions."""

import contextlib
import os
import socket
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infill.pipeline import checkpoints, storage
from infill.pipeline.errors import UserError
from infill.pipeline.pretrained import find_pretrained
from infill.pipeline.registry.config import RegistryConfig
from infill.pipeline.temporary_folders import temporary_folder
from infill.pipeline.tracking.mlflow_store import (
    experiment_id,
    mlflow_client,
    mlflow_error,
    mlflow_errors,
)

EXPERIMENT = "infill-registry"
FOLDER = "checkpoint"
"""Folder of the checkpoint among the run's artifacts."""
COPYING = "infill.copying"
"""Tag of a run without a version yet: machine and process of the promotion."""
ABANDONED_S = 24 * 3600.0
"""Seconds after which a promotion counts as killed, on whatever machine it ran."""
MOST_METRICS = 1000
"""Number of metrics that MLflow accepts in one call."""
_SERVED = "/mlflow-artifacts:/"
"""Separator between a server's URI and the path of a file that only the server can reach."""


@contextlib.contextmanager
def open_registry(config: RegistryConfig, must_exist: str = "") -> Iterator[Any]:
    """Yield an MLflow client; its exceptions become sentences."""
    database = config.tracking_uri.removeprefix("sqlite:///")
    if must_exist and database != config.tracking_uri and not storage.exists(database):
        raise UserError(
            f"there is no registry at {storage.absolute(database)} and {must_exist}; "
            "promote one with `python jobs/promote.py`"
        )
    with mlflow_errors(f"the registry at {config.tracking_uri} answered"):
        yield mlflow_client(config)


def ensure_model(client: Any, name: str) -> None:
    """Create the registered model, unless it exists."""
    try:
        client.create_registered_model(name)
    except mlflow_error() as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise


def keep(
    client: Any,
    config: RegistryConfig,
    source: str,
    name: str,
    digest: str,
    scores: Mapping[str, Any],
) -> tuple[str, str]:
    """Copy the checkpoint to a new MLflow run; return the run and the copy's location.

    The run carries the scores as metrics, by which versions can be sorted. Once a version owns the
    copy, :func:`own` says so; until then :func:`delete_orphans` may delete it.
    """
    experiment = experiment_id(client, config, EXPERIMENT)
    owner = {COPYING: f"{socket.gethostname()} {os.getpid()}"}
    run = client.create_run(experiment, run_name=f"{name}-{digest[:12]}", tags=owner)
    try:
        _log_scores(client, run.info.run_id, scores)
        with _local(source) as folder:
            client.log_artifacts(run.info.run_id, folder, FOLDER)
        copy = f"{run.info.artifact_uri.rstrip('/')}/{FOLDER}"
        if checkpoints.verify(readable(address_of(config, copy), digest)) != digest:
            raise UserError(f"{source} changed while it was being copied; promote it again")
    except BaseException:
        client.set_terminated(run.info.run_id, "FAILED")
        _delete_copy(client, config, run)
        raise
    client.set_terminated(run.info.run_id)
    return run.info.run_id, copy


def own(client: Any, run_id: str) -> None:
    """Keep the copy of a run for good: a version has it now."""
    client.delete_tag(run_id, COPYING)


def delete_orphans(client: Any, config: RegistryConfig) -> None:
    """Delete the copies of promotions that were killed before there was a version.

    A promotion on this machine is over if its process is; any other one after a day.
    """
    experiment = experiment_id(client, config, EXPERIMENT)
    for run in client.search_runs([experiment], f"tags.`{COPYING}` LIKE '%'"):
        if _is_copying(run):
            continue
        if client.search_model_versions(f"run_id='{run.info.run_id}'"):
            own(client, run.info.run_id)
        else:
            _delete_copy(client, config, run)


def _is_copying(run: Any) -> bool:
    """Return whether the process that made a run may still be at work."""
    host, _, process = run.data.tags[COPYING].rpartition(" ")
    if time.time() - run.info.start_time / 1000 > ABANDONED_S:
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _delete_copy(client: Any, config: RegistryConfig, run: Any) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    files = get_artifact_repository(run.info.artifact_uri, tracking_uri=config.tracking_uri)
    with contextlib.suppress(OSError):  # There may be none.
        files.delete_artifacts(FOLDER)
    client.delete_run(run.info.run_id)


def _log_scores(client: Any, run_id: str, scores: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric

    moment = int(time.time() * 1000)
    numbers = [Metric(name, value, moment, 0) for name, value in score_metrics(scores).items()]
    for start in range(0, len(numbers), MOST_METRICS):
        client.log_batch(run_id, metrics=numbers[start : start + MOST_METRICS])


def score_metrics(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return an evaluation's scores under the names of training's validation.

    Args:
        scores: means by metric, or ``{"scores": {group: {metric: mean}}}``: "hole_psnr" over all
            pairs and "hole_psnr/0.1-0.2" over a group.
    """
    found: dict[str, float] = {}
    for group, means in scores.get("scores", {"all": scores}).items():
        for name, value in means.items() if isinstance(means, Mapping) else ():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[name if group == "all" else f"{name}/{group}"] = float(value)
    return found


@contextlib.contextmanager
def _local(location: str) -> Iterator[str]:
    """Yield a local folder with the checkpoint's files."""
    if not storage.is_remote(location):
        yield location
        return
    with temporary_folder() as folder:
        for name in storage.names(location):
            storage.write(os.path.join(folder, name), storage.read(storage.join(location, name)))
        yield str(folder)


def address_of(config: RegistryConfig, uri: str) -> str:
    """Turn an artifact's URI into an address that means the same on every node."""
    if uri.startswith("file:"):
        return urllib.parse.unquote(urllib.parse.urlparse(uri).path)
    if uri.startswith(_SERVED[1:]):
        return f"{config.tracking_uri.rstrip('/')}/{uri}"
    return uri


def readable(address: str, digest: str) -> str:
    """Return a location where this node can read a version's files. Runs anywhere.

    Files that only an MLflow server can reach are downloaded, once per node.

    Args:
        address: the result of :func:`address_of`, or a model of the package.
        digest: digest of the checkpoint.

    Raises:
        UserError: if the server does not deliver them.
    """
    if model := find_pretrained(address):
        return model.location
    if not storage.is_remote(address) or address.startswith("s3://"):
        return address
    kept = Path.home() / ".cache" / "infill" / "versions" / digest
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(kept.parent) as folder:
            aside = _download(address, str(folder))
            with contextlib.suppress(OSError):  # another process was faster
                os.replace(aside, kept)
    return str(kept)


def _download(address: str, folder: str) -> str:
    from mlflow.artifacts import download_artifacts

    server, served, path = address.partition(_SERVED)
    uri, tracking_uri = (_SERVED[1:] + path, server) if served else (address, None)
    try:
        return str(download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=tracking_uri))
    except (mlflow_error(), OSError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"cannot fetch the files of a version from {address}: {first}") from error


def everywhere(address: str, digest: str, folder: str) -> str:
    """Return a location where every node can read a version's files.

    Args:
        address: the result of :func:`address_of`.
        digest: digest of the checkpoint.
        folder: a location that every node sees; files that only a server can reach are copied to
            it.
    """
    source = readable(address, digest)
    if source == address:
        return source
    for name in storage.names(source):
        storage.write(storage.join(folder, name), storage.read(storage.join(source, name)))
    return folder
