"""What a run says while it runs: a line on the driver's terminal, a file, and MLflow.

Workers send :class:`Record` values; only the driver writes. So one stream of records feeds the
progress line, ``progress.jsonl`` and MLflow, and MLflow's database needs to be reachable from
the driver alone.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline import storage
from pipeline.cluster import beside_driver


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where runs, scores and versions are written down."""

    tracking_uri: str = "sqlite:///runs/mlflow.db"
    """MLflow's server or database; "" to keep no such record."""
    artifacts: str = "runs/mlartifacts"
    """Where MLflow keeps files, for a database that is not behind a server."""
    experiment: str = "infill"
    """The MLflow experiment that collects the runs."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One thing a worker has to say."""

    kind: Literal["losses", "scores", "picture", "note"]
    step: int
    """The global step it is about."""
    values: dict[str, float] = field(default_factory=dict)
    """Loss terms, scores or rates by name; the terminal leaves out names with a slash."""
    text: str = ""
    """For people: a sentence, or where a picture lies."""


Report = Callable[[Record], None]


class Track:
    """The driver's end of the stream of records."""

    def __init__(self, label: str, steps: int, log: Callable[[str], None] = print) -> None:
        self.label = label
        self.steps = steps
        self.log = log
        self.records: list[Record] = []
        self._first: tuple[int, float] | None = None

    def __call__(self, record: Record) -> None:
        """Take one record: keep it and show it."""
        self.records.append(record)
        self.log(f"{self.label}  {self._line(record)}")

    def _line(self, record: Record) -> str:
        if record.kind in ("note", "picture"):
            return record.text
        shown = {name: value for name, value in record.values.items() if "/" not in name}
        numbers = "  ".join(f"{name} {_short(value)}" for name, value in shown.items())
        if record.kind == "scores":
            return f"step {record.step}/{self.steps}  validation: {numbers}"
        return f"step {record.step}/{self.steps}  {numbers}{self._time_left(record.step)}"

    def _time_left(self, step: int) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
            return ""
        first_step, start = self._first
        if step <= first_step:
            return ""
        seconds = (now - start) / (step - first_step) * (self.steps - step)
        return f"  {duration(seconds)} left"

    def save(self, location: str) -> None:
        """Write all records as JSON lines."""
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in self.records)
        storage.write(location, lines.encode())


def duration(seconds: float) -> str:
    """Return a time span as people write it: 42s, 3m10s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _short(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


class Mailbox:
    """Records on their way from the workers to the driver. A Ray actor; see :func:`mailbox`."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record) -> None:
        """Leave a record; called by workers."""
        self.records.append(record)

    def take(self) -> list[Record]:
        """Return and forget the records left since the last call; called by the driver."""
        records, self.records = self.records, []
        return records


@contextmanager
def mailbox(report: Report, every_s: float = 0.5) -> Iterator[Any]:
    """Pass what workers put into a Ray actor to ``report``, on the driver, until the block ends.

    Yields:
        The actor's handle; workers call ``handle.put.remote(record)``.
    """
    import ray

    actor = beside_driver(Mailbox)
    done = threading.Event()

    def listen() -> None:
        finished = False
        while not finished:
            finished = done.wait(every_s)
            for record in ray.get(actor.take.remote()):
                report(record)

    listener = threading.Thread(target=listen, name="mailbox", daemon=True)
    listener.start()
    try:
        yield actor
    finally:
        done.set()
        listener.join()
        ray.kill(actor)


def log_run(
    config: TrackingConfig,
    name: str,
    settings: dict[str, Any],
    records: list[Record],
    tags: dict[str, str] | None = None,
) -> str:
    """Write a finished run to MLflow: its settings, and every number under its name.

    Args:
        config: where to.
        name: of the run.
        settings: the configuration by dotted name.
        records: whose ``values`` become metrics at their steps.
        tags: further facts, such as where the checkpoints lie.

    Returns:
        The MLflow run's id, "" when tracking is off.
    """
    if not config.tracking_uri:
        return ""
    client, experiment = connect_mlflow(config)
    from mlflow.entities import Metric, Param, RunTag

    run = client.create_run(experiment, run_name=name)
    moment = int(time.time() * 1000)
    metrics = [
        Metric(key, value, moment, record.step)
        for record in records
        for key, value in record.values.items()
    ]
    client.log_batch(
        run.info.run_id,
        params=[Param(key, str(value)[:500]) for key, value in settings.items()],
        tags=[RunTag(key, value) for key, value in (tags or {}).items()],
    )
    for start in range(0, len(metrics), 1000):  # MLflow's limit for one call
        client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def connect_mlflow(config: TrackingConfig) -> tuple[Any, str]:
    """Return an MLflow client and the experiment's id, creating database and experiment if new."""
    import logging

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=absolute_uri(config.tracking_uri))
    found = client.get_experiment_by_name(config.experiment)
    if found is not None:
        return client, str(found.experiment_id)
    try:
        place = storage.absolute(config.artifacts) if _is_database(config.tracking_uri) else None
        return client, str(client.create_experiment(config.experiment, artifact_location=place))
    except MlflowException:  # another process made it a moment ago
        return client, str(client.get_experiment_by_name(config.experiment).experiment_id)


def absolute_uri(tracking_uri: str) -> str:
    """Return a SQLite address made absolute, so that it means the same in every folder."""
    prefix = "sqlite:///"
    if not tracking_uri.startswith(prefix) or tracking_uri.startswith(prefix + "/"):
        return tracking_uri
    path = storage.absolute(tracking_uri.removeprefix(prefix))
    storage.make_folder(path.rsplit("/", 1)[0])
    return prefix + path


def _is_database(tracking_uri: str) -> bool:
    return tracking_uri.split(":", 1)[0] in ("sqlite", "postgresql", "mysql")
