"""Log a run: terminal, JSONL file, MLflow, Prometheus.

Workers send :class:`Record` values, and only the driver writes them. One stream of records feeds
the progress line, ``progress-*.jsonl``, MLflow and Prometheus, so only the driver needs access to
the database of MLflow.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.tracking.driver_queue import record_queue
    from infill.pipeline.tracking.mlflow_run import (
        TrackingConfig,
        absolute_uri,
        attach,
        mlflow_run_id,
        quieten_mlflow,
        tracked,
    )
    from infill.pipeline.tracking.prometheus import PrometheusGauges
    from infill.pipeline.tracking.records import Record, Report, RunLogger, duration

__all__ = [
    "PrometheusGauges",
    "Record",
    "Report",
    "RunLogger",
    "TrackingConfig",
    "absolute_uri",
    "attach",
    "duration",
    "tracked",
    "mlflow_run_id",
    "record_queue",
    "quieten_mlflow",
]

__getattr__ = lazy_names(
    __name__,
    {
        "driver_queue": ("record_queue",),
        "mlflow_run": (
            "TrackingConfig",
            "absolute_uri",
            "attach",
            "mlflow_run_id",
            "quieten_mlflow",
            "tracked",
        ),
        "prometheus": ("PrometheusGauges",),
        "records": ("Record", "Report", "RunLogger", "duration"),
    },
)
