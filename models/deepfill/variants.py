"""The networks that DeepFill v1's text and ablations describe (Sec. 5.1, appendix D)."""

from dataclasses import replace

from infill.models.architecture import Variant
from infill.models.deepfill.config import AttentionConfig, DeepFillConfig


def variants() -> tuple[Variant, ...]:
    """Return every network that a switch expresses.

    The paper's 2.9M fit its two-stage baseline, not the full model it is printed beside; the full
    one is counted in the released program.
    """
    full = DeepFillConfig()
    return (
        Variant(
            name="full", config=full, published="3,601,542", source="released code; paper: 2.9M"
        ),
        Variant(
            name="paper-widths",
            config=replace(full, refinement="paper"),
            source="appendix D, layer by layer",
        ),
        Variant(
            name="no-attention",
            config=replace(full, attention=AttentionConfig(kind="none")),
            source="released code without its attention branch",
        ),
        Variant(name="hinge", config=replace(full, gan="hinge"), source="Sec. 5.1, other losses"),
        Variant(name="dcgan", config=replace(full, gan="dcgan"), source="Sec. 5.1, other losses"),
    )
