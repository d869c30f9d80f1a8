"""The MLflow run of a training or search."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infill.pipeline import database_addresses, storage
from infill.pipeline.interruption import handled, requested
from infill.pipeline.temporary_folders import temporary_folder
from infill.pipeline.tracking.config import MLflowConfig, TrackingConfig
from infill.pipeline.tracking.mlflow_store import (
    experiment_id,
    mlflow_client,
    mlflow_error,
    mlflow_errors,
)
from infill.pipeline.tracking.records import Record, Report, RunInfo

FLUSH_EVERY_S = 5.0
"""Seconds between two writes, about as long as a reader of the page waits."""
MOST_METRICS, MOST_SETTINGS = 1000, 100
"""Number of metrics that MLflow accepts in one call."""
LONGEST_SETTING = 500
BOOK = "mlflow.json"
"""File in a run's folder with its MLflow run's id and server."""
LAST_ATTEMPTS = 5
"""Number of attempts to write the remaining records when a run has ended."""


@contextmanager
def mlflow_logger(info: RunInfo, warn: Callable[[str], None]) -> Iterator[Report]:
    """Write a run's records to MLflow, under its name and the time of its start."""
    with tracked(info.config, info.run, info.name, info.settings, info.facts, warn) as report:
        yield report


@contextmanager
def tracked(
    config: TrackingConfig,
    run: str,
    name: str,
    settings: Mapping[str, Any],
    facts: Mapping[str, str],
    warn: Callable[[str], None],
) -> Iterator[Report]:
    """Write a run's records to MLflow while the block runs. On the driver.

    A thread writes the records from memory, so that a slow server delays nothing; a server that is
    down is retried. A resumed run keeps its MLflow run.

    Args:
        config: the tracking configuration.
        run: the run's folder, which keeps the id of the MLflow run.
        name: name of the MLflow run; the time is appended.
        settings: the configuration by dotted name; logged as parameters.
        facts: further facts about the run; logged as tags.
        warn: logs a sentence when MLflow does not answer.

    Yields:
        A function of a record, which logs its values as metrics and its image as an artifact.

    Raises:
        UserError: if MLflow cannot be reached at the start.
    """
    if not config.tracking_uri:
        yield lambda record: None
        return
    entry = MLflowRun(config, run, name)
    entry.open(settings, facts)
    waiting: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
    writer = threading.Thread(
        target=_write, args=(entry, waiting, warn), name="mlflow", daemon=True
    )
    writer.start()
    status = "FAILED"
    try:
        with handled():  # SIGTERM alone would end the process silently.
            yield waiting.put
        status = "FINISHED"
    except BaseException as error:
        if requested() or isinstance(error, KeyboardInterrupt | SystemExit):
            status = "KILLED"
        raise
    finally:
        waiting.put(None)
        writer.join()
        entry.close(status, warn)


def _write(
    entry: "MLflowRun", waiting: "queue.SimpleQueue[Record | None]", warn: Callable[[str], None]
) -> None:
    """Write the queue's records every few seconds, until None arrives."""
    silent, over = False, False
    while not over:
        deadline = time.monotonic() + FLUSH_EVERY_S
        while not over and (left := deadline - time.monotonic()) > 0:
            try:
                record = waiting.get(timeout=left)
            except queue.Empty:
                break
            if record is None:
                over = True
            else:
                entry.take(record)
        error = entry.flush()
        if error and not silent:
            warn(f"MLflow does not answer; metrics are kept until it does: {error}")
        silent = bool(error)


class MLflowRun:
    """One run in MLflow, and the records that are not written yet."""

    def __init__(self, config: TrackingConfig, run: str, name: str) -> None:
        self.config, self.run, self.name = config, run, name
        self.metrics: list[Any] = []
        self.images: list[str] = []

    def open(self, settings: Mapping[str, Any], facts: Mapping[str, str]) -> None:
        """Find the MLflow run, or create it."""
        from mlflow.entities import Param, RunTag

        where = f"MLflow at {self.config.tracking_uri} is not writable"
        advice = '; correct tracking.tracking_uri, or set it to "" to turn MLflow off'
        with mlflow_errors(where, advice):
            self.client = mlflow_client(self.config)
            experiment = experiment_id(self.client, self.config, self.config.experiment)
            self.id = self._former()
            params = [Param(key, str(value)[:LONGEST_SETTING]) for key, value in settings.items()]
            if self.id:  # its parameters are written and cannot be changed
                params = []
                self.client.update_run(self.id, status="RUNNING")
            else:
                self.id = self.client.create_run(experiment, run_name=self._name).info.run_id
            for start in range(0, len(params), MOST_SETTINGS):
                self.client.log_batch(self.id, params=params[start : start + MOST_SETTINGS])
            tags = [RunTag(key, str(facts[key])) for key in facts]
            if self.config.parent:
                tags.append(RunTag("mlflow.parentRunId", self.config.parent))
            self.client.log_batch(self.id, tags=tags)
        storage.write(self._book, json.dumps({**self._where, "run_id": self.id}).encode())

    @property
    def _name(self) -> str:
        return f"{self.name} {time.strftime('%Y-%m-%d %H:%M')}"

    @property
    def _book(self) -> str:
        return storage.join(self.run, BOOK)

    @property
    def _where(self) -> dict[str, str]:
        return {"tracking_uri": database_addresses.database_uri(self.config.tracking_uri)}

    def _former(self) -> str:
        """Return the id of the MLflow run of an earlier part of the run, "" if none."""
        if not storage.exists(self._book):
            return ""
        book: dict[str, str] = json.loads(storage.read(self._book))
        if book["tracking_uri"] != self._where["tracking_uri"]:
            return ""
        try:
            found = self.client.get_run(book["run_id"])
        except mlflow_error():  # its database was deleted
            return ""
        return str(found.info.run_id) if found.info.lifecycle_stage == "active" else ""

    def take(self, record: Record) -> None:
        """Keep a record's values and image until the next :meth:`flush`."""
        from mlflow.entities import Metric

        moment = int(time.time() * 1000)
        self.metrics += [
            Metric(key, value, moment, record.step) for key, value in record.values.items()
        ]
        if record.image:
            self.images.append(record.image)

    def flush(self) -> Exception | None:
        """Write the kept records; return the error, if any, and keep the rest."""
        try:
            while self.metrics:
                self.client.log_batch(self.id, metrics=self.metrics[:MOST_METRICS])
                del self.metrics[:MOST_METRICS]
            while self.images:
                _send(self.client, self.id, self.images[0], "samples")
                del self.images[0]
        except (mlflow_error(), OSError) as error:
            return error
        return None

    def close(self, status: str, warn: Callable[[str], None]) -> None:
        """Write the remaining records and the run's status, or log that this failed."""
        try:
            storage.retry(self._write_all, LAST_ATTEMPTS, lambda error: None)
            self.client.set_terminated(self.id, status)
        except (mlflow_error(), OSError) as error:
            warn(
                f"MLflow does not answer: its run lacks {len(self.metrics)} values, which are in "
                f"progress-*.jsonl, and the run's status: {error}"
            )

    def _write_all(self) -> None:
        if error := self.flush():
            raise OSError(str(error)) from error


def attach(run: str, locations: Sequence[str], warn: Callable[[str], None]) -> None:
    """Add files to a run's MLflow run, as its ``report``. On the driver, after the run.

    Args:
        run: the run's folder; nothing happens if it has no MLflow run.
        locations: locations of the files; their base names are kept.
        warn: logs a sentence when MLflow does not answer; the files themselves are not lost.
    """
    if not mlflow_run_id(run):
        return
    book: dict[str, str] = json.loads(storage.read(storage.join(run, BOOK)))
    try:
        client = mlflow_client(MLflowConfig(tracking_uri=book["tracking_uri"]))
        for location in locations:
            _send(client, book["run_id"], location, "report")
    except (mlflow_error(), OSError) as error:
        warn(f"MLflow does not answer; its run lacks {', '.join(locations)}: {error}")


def _send(client: Any, entry: str, location: str, folder: str) -> None:
    with temporary_folder() as own:
        copy = Path(own, location.rsplit("/", 1)[-1])
        copy.write_bytes(storage.read(location))
        client.log_artifact(entry, str(copy), folder)


def mlflow_run_id(run: str) -> str:
    """Return the id of a run's MLflow run, "" if it has none."""
    book = storage.join(run, BOOK)
    if not storage.exists(book):
        return ""
    return str(json.loads(storage.read(book))["run_id"])
