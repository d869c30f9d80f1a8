"""DeepFill v2 as published, and without its attention."""

from infill.models.architecture import Variant
from infill.models.deepfill.config import AttentionConfig
from infill.models.deepfill2.config import DeepFill2Config


def variants() -> tuple[Variant, ...]:
    """Return the published network and the one without attention."""
    return (
        Variant(
            name="full",
            config=DeepFill2Config(),
            published="4,052,478",
            source="released code; 4.1M in Sec. 4 (not checked)",
        ),
        Variant(
            name="no-attention",
            config=DeepFill2Config(attention=AttentionConfig(kind="none")),
            source="Sec. 4.3 (not checked)",
        ),
    )
