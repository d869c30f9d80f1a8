"""DeepFill v1's search spaces, and the systems of its Table 1."""

from functools import partial
from typing import Any

from infill.models.tables import Table, printed_row

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "lambdas": {"hole_weight": (0.6, 1.2, 2.4), "adversarial_weight": (0.0001, 0.001, 0.01)},
    "discount": {"discount": ("box", "distance"), "discount_rate": (0.9, 0.99, 1.0)},
    "attention": {"attention.kind": ("contextual", "none")},
    "gan": {"gan": ("wgan_gp", "hinge", "dcgan", "lsgan")},
}
"""Weights; gamma of the spatially discounted loss; the attention branch; the adversarial loss."""


_row = partial(printed_row, "l1 l2 psnr total_variation")

TABLES = {
    "table1": Table(
        title="Table 1 (figures from memory): two coarse networks, the second with attention",
        preset="places2",
        measured_on="Places2 validation, squares; L1 and L2 in per cent; the printed figures are "
        "from memory, not checked against the print",
        protocol="deepfill-places2",
        rows=(
            _row(
                "baseline",
                {"refinement": "paper", "attention.kind": "none"},
                "9.4 2.4 18.15 25.7",
            ),
            _row("full", {}, "8.6 2.1 18.91 25.3"),
        ),
    ),
}
