"""The registry of model versions on MLflow: lineage, gates, promotion, rollback.

``versions`` registers, promotes, rolls back and resolves versions; ``lineage`` is the metadata of a
version, ``latency`` its measured cost, and ``store`` the MLflow server or database. ``gates``, the
scores required of a checkpoint, is imported separately, because only promotion depends on
evaluation.
"""

from infill.pipeline.registry.latency import Latency, measure_latency
from infill.pipeline.registry.lineage import Lineage, trace_lineage
from infill.pipeline.registry.store import RegistryConfig, everywhere, readable
from infill.pipeline.registry.versions import (
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
    "Latency",
    "Lineage",
    "RegistryConfig",
    "Resolved",
    "Version",
    "champion",
    "everywhere",
    "measure_latency",
    "readable",
    "register",
    "resolve",
    "rollback",
    "trace_lineage",
    "versions",
]
