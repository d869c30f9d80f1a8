"""The rows of MADF's Table II: encoders, refinement decoders, their norm."""

from infill.models.architecture import OtherMethod, Variant
from infill.models.madf.config import MADFConfig

OTHERS = tuple(
    OtherMethod(name=name, source=f"Table IV, as printed; not run here: {flops} FLOPs")
    for name, flops in (
        ("LBAM", "22.11G"),
        ("GConv", "55.51G"),
        ("EdgeConnect", "122.67G"),
        ("Contextual Attention", "51.62G"),
    )
)
"""The methods beside MADF in Table IV; partial convolution is the variant ``partial-k0``."""


def variants() -> tuple[Variant, ...]:
    """Return every row of the table; the paper prints no counts, the release has K up to 2.

    The released numbers include 1,248 parameters of norms that are declared and never run. Table IV
    counts FLOPs by a rule that it does not state, so they are named beside ours and not compared.
    """
    return (
        Variant(
            name="full",
            config=MADFConfig(dead_norms=True),
            published="85,141,214",
            source="released; Table II, K = 2 with PN; Table IV: 51.77G FLOPs",
        ),
        Variant(
            name="k0",
            config=MADFConfig(num_refinements=0, dead_norms=True),
            published="40,743,065",
            source="released; Table II, K = 0; Table IV: 22.13G FLOPs",
        ),
        Variant(
            name="k1",
            config=MADFConfig(num_refinements=1, dead_norms=True),
            published="62,942,135",
            source="released; Table II, K = 1 with PN",
        ),
        Variant(name="k3", config=MADFConfig(num_refinements=3), source="Table II, K = 3 with PN"),
        Variant(
            name="k1-batch-norm",
            config=MADFConfig(num_refinements=1, refinement_norm="batch"),
            source="Table II, K = 1 without PN",
        ),
        Variant(
            name="k2-batch-norm",
            config=MADFConfig(refinement_norm="batch"),
            source="Table II, K = 2 without PN",
        ),
        Variant(
            name="gated-k0",
            config=MADFConfig(encoder="gated", num_refinements=0),
            source="Table II, GConv + K0",
        ),
        Variant(
            name="partial-k0",
            config=MADFConfig(encoder="partial", num_refinements=0),
            source="Table II, PConv + K0; Table IV: 18.95G FLOPs",
        ),
        Variant(
            name="live", config=MADFConfig(), source="K = 2 as built by default: no dead norms"
        ),
    )
