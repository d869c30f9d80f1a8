"""The U-Net's search spaces; it has no tables."""

from typing import Any

from infill.models.tables import Table

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "lambdas": {"discount_rate": (0.8, 0.9, 0.97, 1.0)},
    "rates": {"learning_rate": (3e-4, 1e-3, 3e-3)},
    "blocks": {"num_blocks": (1, 2, 3)},
}
"""The discount of the loss; learning rates; residual blocks at each size."""

TABLES: dict[str, Table] = {}
"""No paper has this network."""
