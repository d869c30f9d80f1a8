"""DeepFill v2's search spaces."""

from typing import Any

from infill.models.tables import Table

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "lambdas": {"image_weight": (0.5, 1.0, 2.0), "adversarial_weight": (0.1, 1.0, 10.0)},
    "attention": {"attention.kind": ("contextual", "none")},
}
"""Weights; the attention branch."""

TABLES: dict[str, Table] = {}
"""A baseline of the other papers: its own are not ours to repeat."""
