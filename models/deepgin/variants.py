"""The seven rows of DeepGIN's Table 1, and the released form that label maps guide."""

from dataclasses import replace

from infill.models.architecture import Variant
from infill.models.deepgin.config import DeepGINConfig


def variants() -> tuple[Variant, ...]:
    """Return every row; the paper counts the generator."""
    full = DeepGINConfig()
    without_projection = replace(full, back_projection=False)
    dilated = replace(without_projection, block="dilated")
    standard = replace(without_projection, block="standard")
    rows = (
        ("full", full, "42.930M", "row 7, SPDResBlk-MSSA-BP"),
        ("spd-mssa", without_projection, "42.892M", "row 6, SPDResBlk-MSSA"),
        ("dilated-mssa", dilated, "42.892M", "row 5, DilatedResBlk-MSSA"),
        ("standard-mssa", standard, "42.892M", "row 4, StdResBlk-MSSA"),
        ("standard-sa", replace(standard, attention="single"), "41.376M", "row 3, StdResBlk-SA"),
        ("standard", replace(standard, attention="none"), "40.850M", "row 2, StdResBlk"),
        (
            "coarse",
            replace(standard, attention="none", refine=False),
            "8.168M",
            "row 1, StdResBlk (coarse only)",
        ),
    )
    guided = Variant(
        name="segmentation-guided",
        config=replace(full, segmentation_guided=True),
        published="42,939,594",
        source="released code, with a label map",
    )
    printed = (
        Variant(name=name, config=config, published=figure, source=f"Table 1, {row}")
        for name, config, figure, row in rows
    )
    return (*printed, guided)
