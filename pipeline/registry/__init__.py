"""Which checkpoint is which version, where it comes from, and what it had to show.

``versions`` registers, promotes, rolls back and resolves; ``lineage`` is what is written beside a
version; ``gates`` are the scores asked of it; ``store`` is the MLflow server or database.
"""

from pipeline.registry.gates import Gate, parse_gate, require, require_about
from pipeline.registry.lineage import Lineage, trace_lineage
from pipeline.registry.store import RegistryConfig
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
    "Gate",
    "Lineage",
    "RegistryConfig",
    "Resolved",
    "Version",
    "champion",
    "parse_gate",
    "register",
    "require",
    "require_about",
    "resolve",
    "rollback",
    "trace_lineage",
    "versions",
]
