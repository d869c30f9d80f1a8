"""Log a run: terminal, JSONL file, MLflow, Prometheus.

Workers send :class:`Record` values; only the driver writes. So one stream of records feeds the
progress line, ``progress-*.jsonl``, MLflow and Prometheus, and MLflow's database needs to be
reachable from the driver alone.
"""

from pipeline.tracking.driver_queue import mailbox
from pipeline.tracking.mlflow_run import (
    TrackingConfig,
    absolute_uri,
    attach,
    entered,
    entry_of,
    quieten_mlflow,
)
from pipeline.tracking.prometheus import Gauges
from pipeline.tracking.records import Record, Report, Track, duration

__all__ = [
    "Gauges",
    "Record",
    "Report",
    "Track",
    "TrackingConfig",
    "absolute_uri",
    "attach",
    "duration",
    "entered",
    "entry_of",
    "mailbox",
    "quieten_mlflow",
]
