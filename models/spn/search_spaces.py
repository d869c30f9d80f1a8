"""SPN's search spaces, and its ablations (Sec. 3.3, Tables 2 to 5, Fig. 7 and 8)."""

from functools import partial
from typing import Any

from infill.models.tables import Table, printed_row

DECADES = (0.1, 1.0, 10.0)
ON = "Paris StreetView, irregular masks of all ratios; MAE in tenths of a per cent of 255"

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "lambdas": {"image_weight": DECADES, "adversarial_weight": DECADES},
    "lambdas-probabilistic": {
        "variant": ("probabilistic",),
        "feature_matching_weight": DECADES,
        "diversity_weight": DECADES,
        "latent_weight": (0.01, 0.05, 0.1),
    },
    "emphasis": {"prior_hole_emphasis": (1.0, 3.0, 5.0), "hole_emphasis": (1.0, 2.0, 4.0)},
    "blocks": {"num_blocks": (4, 8, 12)},
}
"""lambda_1 and lambda_2; lambda_3 to lambda_5 (lambda_3 of the features of VGG stays), of the
probabilistic variant; alpha and delta; the residual blocks of Table 4."""


_row = partial(printed_row, "uniform_ssim_11 psnr grey_l1 fid")

TABLES = {
    "table2-celebahq": Table(
        title="Table 2: probabilistic inpainting of CelebA-HQ, the best of five samples by PSNR",
        preset="probabilistic-celebahq",
        measured_on="CelebA-HQ, 2,800 test images, irregular masks of all ratios",
        protocol="spn-prob",
        rows=(_row("Ours", {"variant": "probabilistic"}, "0.881 28.90 0.160 4.08"),),
    ),
    "table2-paris": Table(
        title="Table 2: probabilistic inpainting of Paris StreetView, the best of five samples",
        preset="probabilistic-paris",
        measured_on=ON,
        protocol="spn-prob",
        rows=(_row("Ours", {"variant": "probabilistic"}, "0.865 28.56 0.179 46.97"),),
    ),
    "table3": Table(
        title="Table 3: levels of the prior pyramid",
        preset="paris",
        measured_on=ON,
        protocol="spn-paris",
        rows=(
            _row("64", {"prior_levels": 1, "semantic_slope": 0.1}, "0.882 29.38 0.161 46.13"),
            _row("64 + 128", {"prior_levels": 2}, "0.884 29.45 0.158 41.04"),
            _row("64 + 128 + 256", {}, "0.886 29.69 0.154 36.82"),
        ),
    ),
    "table4": Table(
        title="Table 4: SPADE residual blocks",
        preset="paris",
        measured_on=ON,
        protocol="spn-paris",
        rows=(
            _row("N = 4", {"num_blocks": 4}, "0.881 29.40 0.162 41.00"),
            _row("N = 8", {"num_blocks": 8}, "0.886 29.69 0.154 36.82"),
            _row("N = 12", {"num_blocks": 12}, "0.886 29.61 0.155 42.50"),
        ),
    ),
    "table5": Table(
        title="Table 5: SPL taught by the classifier, or by the prior of an SPN of Places2",
        preset="paris",
        measured_on=ON,
        protocol="spn-paris",
        rows=(
            _row(
                "SPL w/ ASL", {"prior_levels": 1, "semantic_slope": 0.1}, "0.886 29.38 0.154 46.13"
            ),
            _row(
                "SPL w/ S_prior",
                {"prior_levels": 1, "semantic_slope": 0.1, "teacher": "spn"},
                "0.881 29.21 0.163 42.30",
            ),
        ),
    ),
    "figure8": Table(
        title="Figure 8: what the prior imitates (bars without figures)",
        preset="paris",
        measured_on=ON,
        protocol="spn-paris",
        rows=(
            _row("multi-label classification (ASL)", {}, "0.886 29.69 0.154 36.82"),
            _row("detection (YOLOv5)", {"teacher": "detection"}),
            _row("segmentation (HRNet)", {"teacher": "segmentation"}),
            _row("edge maps", {"teacher": "edge"}),
        ),
    ),
    "figure7": Table(
        title="Figure 7: the effect of the prior (bars without figures)",
        preset="paris",
        measured_on=ON,
        protocol="spn-paris",
        rows=(
            _row("without semantic supervision", {"prior_weight": 0.0}),
            _row("without prior pyramid", {"prior_levels": 1}),
            _row("with concatenation", {"fusion": "concat"}),
            _row("full", {}, "0.886 29.69 0.154 36.82"),
        ),
    ),
}
