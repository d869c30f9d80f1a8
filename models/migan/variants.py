"""MI-GAN at both released sizes, as served, and without parallel kernels."""

from infill.models.architecture import Variant
from infill.models.migan.config import MIGANConfig


def variants() -> tuple[Variant, ...]:
    """Return the networks as trained, with nine kernels each, and as released, merged."""
    return (
        Variant(name="full", config=MIGANConfig(), source="released configuration, as trained"),
        Variant(
            name="merged",
            config=MIGANConfig(num_kernels=0),
            published="5,865,505",
            source="released code, as served, less its fixed filters",
        ),
        Variant(
            name="merged-512",
            config=MIGANConfig(num_kernels=0, image_size_px=512),
            published="5,893,158",
            source="released code, as served, less its fixed filters",
        ),
        Variant(
            name="one-kernel",
            config=MIGANConfig(num_kernels=1),
            source="released configuration without re-parametrisation",
        ),
    )
