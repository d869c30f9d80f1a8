"""PEN-Net's search spaces, and its ablation (Table 6)."""

from functools import partial
from typing import Any

from infill.models.tables import Table, printed_row

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "lambdas": {"adversarial_weight": (0.01, 0.1, 1.0), "pyramid_weight": (0.0, 0.5, 1.0)},
    "attention": {"attention": ("cross_layer", "single", "same_layer", "patch_swap", "none")},
    "level": {"attention": ("single",), "attention_level": (1, 2, 3, 4, 5)},
}
"""lambda_G and lambda_pd; the kind of attention; the level of a single attention."""


_row = partial(printed_row, "l1 ms_ssim places_score fid")

TABLES = {
    "table6": Table(
        title="Table 6: patch swap, one attention, a pyramid of them",
        preset="places2",
        measured_on="Places2, squares of 128 px; L1 in per cent (MS-SSIM, there, as well)",
        protocol="pennet-places2",
        rows=(
            _row("patch-swap layer", {"attention": "patch_swap"}, "12.13 0.6400 29.26 36.85"),
            _row("attention transfer", {"attention": "single"}, "9.85 0.7161 37.02 26.38"),
            _row("pyramid", {"attention": "cross_layer"}, "9.94 0.7809 50.51 15.19"),
        ),
    ),
}
