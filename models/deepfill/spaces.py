"""What DeepFill v1 is searched over, and the systems of its Table 1."""

from typing import Any

from models.architecture import Row, Table

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "lambdas": {"hole_weight": (0.6, 1.2, 2.4), "adversarial_weight": (0.0001, 0.001, 0.01)},
    "discount": {"discount": ("box", "distance"), "discount_rate": (0.9, 0.99, 1.0)},
    "attention": {"attention.kind": ("contextual", "none")},
    "gan": {"gan": ("wgan_gp", "hinge", "dcgan", "lsgan")},
}
"""Weights; gamma of the spatially discounted loss; the attention branch; the adversarial loss."""

TABLES = {
    "table1": Table(
        title="Table 1: two coarse networks in a row, and the second with attention",
        preset="places2",
        measured_on="Places2 validation, squares; L1 and L2 in per cent",
        rows=(
            Row(
                label="baseline",
                changes={"refinement": "paper", "attention.kind": "none"},
                published={"l1": "9.4", "l2": "2.4", "psnr": "18.15", "tv": "25.7"},
            ),
            Row(
                label="full",
                changes={},
                published={"l1": "8.6", "l2": "2.1", "psnr": "18.91", "tv": "25.3"},
            ),
        ),
    ),
}
