"""AOT-GAN as released, and with the parts that its blocks can do without."""

from infill.models.aotgan.config import AOTGANConfig
from infill.models.architecture import Variant


def variants() -> tuple[Variant, ...]:
    """Return the released network and the one of the search spaces that differs in size."""
    return (
        Variant(name="full", config=AOTGANConfig(), published="15,200,835", source="released code"),
        Variant(
            name="identity",
            config=AOTGANConfig(residual="identity"),
            source="ours: blocks without a gate",
        ),
    )
