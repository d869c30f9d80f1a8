"""The registry of model versions on MLflow: lineage, gates, promotion, rollback.

``versions`` registers, promotes, rolls back and resolves versions; ``lineage`` is the metadata of a
version, ``latency`` its measured cost, and ``store`` the MLflow server or database. The scores
required of a checkpoint are in ``evaluation.gates``.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.registry.config import CHALLENGER, CHAMPION, RegistryConfig
    from infill.pipeline.registry.latency import Latency, measure_latency
    from infill.pipeline.registry.lineage import Lineage, trace_lineage
    from infill.pipeline.registry.store import everywhere, readable
    from infill.pipeline.registry.versions import (
        Resolved,
        Version,
        champion,
        list_versions,
        register,
        repeat_alias,
        resolve,
        rollback,
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
    "repeat_alias",
    "resolve",
    "rollback",
    "trace_lineage",
    "list_versions",
]

__getattr__ = lazy_names(
    __name__,
    {
        "config": ("CHALLENGER", "CHAMPION", "RegistryConfig"),
        "latency": ("Latency", "measure_latency"),
        "lineage": ("Lineage", "trace_lineage"),
        "store": ("everywhere", "readable"),
        "versions": (
            "Resolved",
            "Version",
            "champion",
            "register",
            "repeat_alias",
            "resolve",
            "rollback",
            "list_versions",
        ),
    },
)
