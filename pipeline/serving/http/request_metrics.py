"""Prometheus metrics at ``/metrics``: of this process, or of all ingresses of its node together.

Labels take few values each: routes by template, codes and stages by name.
"""

import os
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from infill.pipeline.serving.node_counts import ProcessNumber

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCHES = (1, 2, 4, 8, 16, 32)
STAGES = ("decode", "queue", "compute", "encode")


class RequestMetrics:
    """The counters of one application.

    Args:
        process: this process among those that count together; None counts alone. All metrics that
            the process makes from now on are then in files of the folder.
    """

    def __init__(self, process: ProcessNumber | None = None) -> None:
        self._process = process
        if process is not None:
            _keep_in_files(process)
        self._registry = CollectorRegistry()

        self._requests = Counter(
            "infill_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "infill_request_seconds",
            "Seconds from the first byte of a request to the last of its response.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._refusals = Counter(
            "infill_refusals", "Requests refused, by code.", ["code"], registry=self._registry
        )
        self.inside = Gauge(
            "infill_requests_inside",
            "Costly requests being processed.",
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        self.receiving = Gauge(
            "infill_requests_receiving",
            "Costly requests whose body, or first pair, is arriving.",
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        self._composites = Counter(
            "infill_pictures", "Composites made.", ["model", "canvas"], registry=self._registry
        )
        self._stage_seconds = Histogram(
            "infill_stage_seconds",
            "Seconds per image in each stage.",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch_size = Histogram(
            "infill_batch_size",
            "Canvases that shared an image's forward pass.",
            buckets=_BATCHES,
            registry=self._registry,
        )

    def count(self, route: str, status: int, code: str, seconds: float) -> None:
        """Count one request; status 0 means that the client disconnected."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if code:
            self._refusals.labels(code).inc()

    def count_image(self, model: str, canvas: str, timings: Mapping[str, float]) -> None:
        """Count one composite and its time in each stage."""
        self._composites.labels(model, canvas).inc()
        self._batch_size.observe(timings["batch_size"])
        for stage in STAGES:
            self._stage_seconds.labels(stage).observe(timings[f"{stage}_ms"] / 1000)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format, summed over the processes.

        What a killed process has counted stays in the counters, and not in the gauges.
        """
        if self._process is None:
            return generate_latest(self._registry)
        folder = str(self._process.folder)
        for number in self._process.dead():
            mark_process_dead(number, folder)
        together = CollectorRegistry()
        MultiProcessCollector(together, folder)
        return generate_latest(together)


def _keep_in_files(process: ProcessNumber) -> None:
    """Let prometheus_client keep what this process counts in files that others can read.

    It decides so when it is first imported, by a variable of the environment; programs of Ray's,
    which use it too, would follow. After a kill the next process takes the number, and goes on
    counting in the files.
    """
    folder = str(process.folder)
    mark_process_dead(process.number, folder)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    values.ValueClass = values.MultiProcessValue(lambda: process.number)
