"""LaMa's sizes: Big LaMa, the paper's Fourier network, fewer global maps (Table 2)."""

from infill.models.architecture import Variant
from infill.models.lama.config import LaMaConfig


def variants() -> tuple[Variant, ...]:
    """Return both published sizes; the paper prints whole millions."""
    return (
        Variant(
            name="full",
            config=LaMaConfig(),
            published="51M",
            source="Big LaMa, Sec. 3.4 (not checked)",
        ),
        Variant(
            name="fourier",
            config=LaMaConfig(num_blocks=9),
            published="27M",
            source="LaMa-Fourier, Table 1 (not checked)",
        ),
    )
