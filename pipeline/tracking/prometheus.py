"""The latest metrics of a run for Prometheus, on the metrics port of the driver node.

Ray puts ``ray_`` before every name; ``infra/monitoring`` has the dashboards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from infill.pipeline.tracking.records import Record, Report, RunInfo

_PLAIN = {
    "samples_per_s": "Images per second, all workers together.",
    "data_wait_share": "Share of the time that the network waited for a batch, 0 to 1.",
    "damaged_samples": "Samples that were damaged and left out since the process began.",
    "gpu_memory_gib": "Maximum memory allocated on the first worker's GPU.",
}


@contextmanager
def prometheus(info: RunInfo, warn: Callable[[str], None]) -> Iterator[Report]:
    """Export the latest values of a run."""
    yield PrometheusGauges(info.run, info.architecture)


class PrometheusGauges:
    """Exports records as gauges; without Ray it does nothing."""

    def __init__(self, run: str, architecture: str) -> None:
        self._tags = {"run": run.rstrip("/").rpartition("/")[2], "architecture": architecture}
        self._made: dict[str, Any] = {}

    def __call__(self, record: Record) -> None:
        """Set the gauges to the record's values."""
        import ray

        if not record.values or not ray.is_initialized():
            return
        self._show("step", "Steps taken.", record.step)
        for name, value in record.values.items():
            if name in _PLAIN:
                self._show(name, _PLAIN[name], value)
            elif record.kind == "scores":
                self._show("score", "Validation scores.", value, name=name)
            elif "/" not in name:
                self._show("loss", "Terms of the loss, weighted.", value, name=name)

    def _show(self, gauge: str, meaning: str, value: float, **tags: str) -> None:
        from ray.util.metrics import Gauge

        if gauge not in self._made:
            keys = (*self._tags, *tags)
            self._made[gauge] = Gauge(f"infill_train_{gauge}", meaning, tag_keys=keys)
        self._made[gauge].set(value, tags={**self._tags, **tags})
