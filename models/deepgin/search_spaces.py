"""DeepGIN's search spaces, and its ablation (Table 1)."""

from functools import partial
from typing import Any

from infill.models.tables import Table, printed_row

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "lambdas": {
        "hole_weight": (2.5, 5.0, 10.0),
        "adversarial_weight": (0.0001, 0.001, 0.01),
        "perceptual_weight": (0.01, 0.05, 0.25),
        "style_weight": (20.0, 80.0, 320.0),
    },
    "blocks": {"num_coarse_blocks": (3, 6, 9), "num_refine_blocks": (3, 6, 9)},
    "dilations": {
        "coarse_rates": ((2, 3, 4, 5, 6, 8, 10, 1), (1, 2, 4, 8), (2, 4), (1,)),
        "refine_rates": ((2, 3, 4, 5), (1, 2, 4, 8), (2, 4), (1,)),
    },
}
"""Weights around the paper's; residual blocks of both networks; dilations side by side."""


_row = partial(printed_row, "psnr ssim hole_l1 fid lpips")

_PLAIN = {"back_projection": False}

TABLES = {
    "table1": Table(
        title="Table 1: residual blocks, attention, back projection",
        preset="celebahq",
        measured_on="CelebA-HQ, 3,000 test images under three kinds of masks; L1 in per cent",
        protocol="deepgin-celebahq",
        rows=(
            _row(
                "StdResBlk (coarse only)",
                {**_PLAIN, "refine": False, "block": "standard", "attention": "none"},
                "31.55 - - 23.824 0.182",
            ),
            _row(
                "StdResBlk",
                {**_PLAIN, "block": "standard", "attention": "none"},
                "31.34 0.923 4.710 19.436 0.191",
            ),
            _row(
                "StdResBlk-SA",
                {**_PLAIN, "block": "standard", "attention": "single"},
                "31.60 0.925 4.510 18.239 0.180",
            ),
            _row(
                "StdResBlk-MSSA",
                {**_PLAIN, "block": "standard"},
                "32.66 0.933 4.067 12.843 0.148",
            ),
            _row(
                "DilatedResBlk-MSSA",
                {**_PLAIN, "block": "dilated"},
                "32.71 0.933 4.034 12.548 0.149",
            ),
            _row("SPDResBlk-MSSA", _PLAIN, "32.88 0.935 3.884 12.335 0.143"),
            _row("SPDResBlk-MSSA-BP", {}, "33.26 0.939 3.666 11.424 0.132"),
        ),
    ),
}
