"""The registry of model versions on MLflow: lineage, gates, promotion, rollback.

``versions`` registers, promotes, rolls back and resolves; ``lineage`` is what is written beside a
version, ``cost`` what a picture of it costs; ``store`` is the MLflow server or database.
``gates``, the scores asked of a checkpoint, is imported by its own name, as only promotion needs
to know about evaluation.
"""

from pipeline.registry.latency import Cost, measure_cost
from pipeline.registry.lineage import Lineage, trace_lineage
from pipeline.registry.store import RegistryConfig, everywhere, readable
from pipeline.registry.versions import (
    CHALLENGER,
    CHAMPION,
    Resolved,
    Version,
    champion,
    register,
    resolve,
    rollback,
    versions,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "Cost",
    "Lineage",
    "RegistryConfig",
    "Resolved",
    "Version",
    "champion",
    "everywhere",
    "measure_cost",
    "readable",
    "register",
    "resolve",
    "rollback",
    "trace_lineage",
    "versions",
]
