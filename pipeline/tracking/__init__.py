"""Log a run: terminal, JSONL file, MLflow, TensorBoard, Prometheus, Weights & Biases.

Workers send :class:`Record` values, and only the driver writes them. One stream of records feeds
the list of ``loggers``, so only the driver needs access to the database of MLflow, which
``mlflow_store`` opens for runs and for the registry.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.tracking.config import MLflowConfig, TrackingConfig
    from infill.pipeline.tracking.driver_queue import GuardedReport, record_queue
    from infill.pipeline.tracking.loggers import LOGGERS, logged
    from infill.pipeline.tracking.mlflow_run import attach, mlflow_run_id, tracked
    from infill.pipeline.tracking.mlflow_store import quieten_mlflow
    from infill.pipeline.tracking.records import Record, Report, RunInfo

__all__ = [
    "GuardedReport",
    "LOGGERS",
    "MLflowConfig",
    "Record",
    "Report",
    "RunInfo",
    "TrackingConfig",
    "attach",
    "logged",
    "tracked",
    "mlflow_run_id",
    "record_queue",
    "quieten_mlflow",
]

__getattr__ = lazy_names(
    __name__,
    {
        "driver_queue": ("GuardedReport", "record_queue"),
        "config": ("MLflowConfig", "TrackingConfig"),
        "loggers": ("LOGGERS", "logged"),
        "mlflow_run": ("attach", "mlflow_run_id", "tracked"),
        "mlflow_store": ("quieten_mlflow",),
        "records": ("Record", "Report", "RunInfo"),
    },
)
