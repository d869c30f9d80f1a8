"""The rows of PEN-Net's Table 6: kinds of attention in the skip connections."""

from infill.models.architecture import Variant
from infill.models.pennet.config import PENNetConfig


def variants() -> tuple[Variant, ...]:
    """Return every row of the table; the paper prints no counts, the release has the full one."""
    return (
        Variant(
            name="full",
            config=PENNetConfig(),
            published="10,231,538",
            source="released; Table 6, cross-layer attention",
            published_time="0.19 s, TITAN V",
        ),
        Variant(name="single", config=PENNetConfig(attention="single"), source="Table 6, one ATN"),
        Variant(
            name="same-layer", config=PENNetConfig(attention="same_layer"), source="Table 6, CA"
        ),
        Variant(
            name="patch-swap",
            config=PENNetConfig(attention="patch_swap"),
            source="Table 6, patch swap",
        ),
        Variant(name="none", config=PENNetConfig(attention="none"), source="Table 6, U-Net"),
        Variant(
            name="as-printed",
            config=PENNetConfig.as_printed(),
            source="Eq. 2 to 4; the same layers as full",
        ),
    )
