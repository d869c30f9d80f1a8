"""LaMa's search spaces."""

from typing import Any

from infill.models.tables import Table

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "lambdas": {
        "adversarial_weight": (3.0, 10.0, 30.0),
        "matching_weight": (30.0, 100.0, 300.0),
        "perceptual_weight": (0.0, 30.0),
    },
    "blocks": {"num_blocks": (6, 9, 12, 18)},
    "share": {"global_share": (0.25, 0.5, 0.75)},
}
"""Weights around the paper's; residual blocks; the share of maps that see the whole frame."""

TABLES: dict[str, Table] = {}
"""A baseline of the other papers: its own are not ours to repeat."""
