"""MADF's search spaces, and its ablations (Tables II and III)."""

from functools import partial
from typing import Any

from infill.models.tables import Table, printed_row

ON = "Places2, irregular masks of all ratios"

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "refinements": {"num_refinements": (0, 1, 2, 3)},
    "lambdas": {
        "hole_weight": (3.0, 6.0, 12.0),
        "perceptual_weight": (0.01, 0.05, 0.25),
        "style_weight": (30.0, 120.0, 480.0),
    },
    "variation": {"variation_weight": (0.0, 0.1, 1.0)},
}
"""K; the weights that the paper takes from partial convolutions, around their values."""


_row = partial(printed_row, "psnr ssim fid")

TABLES = {
    "table2": Table(
        title="Table II: encoder, refinements and their norm",
        preset="places2",
        measured_on=ON,
        protocol="madf-places2",
        rows=(
            _row("PConv+K0", {"num_refinements": 0, "encoder": "partial"}, "25.49 0.860 5.82"),
            _row("GConv+K0", {"num_refinements": 0, "encoder": "gated"}, "25.61 0.863 5.53"),
            _row("MADF+K0", {"num_refinements": 0}, "25.70 0.864 5.21"),
            _row(
                "MADF+K1",
                {"num_refinements": 1, "refinement_norm": "batch"},
                "25.75 0.865 5.23",
            ),
            _row("MADF+K1+PN", {"num_refinements": 1}, "25.87 0.867 5.03"),
            _row(
                "MADF+K2",
                {"num_refinements": 2, "refinement_norm": "batch"},
                "25.96 0.869 4.96",
            ),
            _row("MADF+K2+PN", {"num_refinements": 2}, "26.11 0.872 4.45"),
            _row("MADF+K3+PN", {"num_refinements": 3}, "26.16 0.874 4.69"),
        ),
    ),
    "table3": Table(
        title="Table III: which losses grade which output",
        preset="places2",
        measured_on=ON,
        protocol="madf-places2",
        rows=(
            _row("last only", {"supervision": "none"}, "25.97 0.868 4.99"),
            _row("same", {"supervision": "same"}, "26.02 0.869 4.84"),
            _row("coarse to fine", {"supervision": "coarse_to_fine"}, "26.11 0.872 4.45"),
        ),
    ),
}
