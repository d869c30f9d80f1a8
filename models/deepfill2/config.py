"""The numbers of DeepFill v2: its widths, its attention, its losses."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from infill.models.config import ModelConfig
from infill.models.deepfill.config import AttentionConfig


@dataclass(frozen=True, kw_only=True)
class DeepFill2Config(ModelConfig):
    """DeepFill v2 as its authors released it; every width is a multiple of ``channels``."""

    architecture: ClassVar[str] = "deepfill2"

    channels: int = 48
    """Number of feature maps that the first convolution computes; half of them are gates."""
    num_dilated: int = 4
    """Number of consecutive dilated convolutions, with dilations 2, 4, 8, 16, ..."""
    num_extra_convs: int = 0
    """Number of further plain convolutions before the dilated ones."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """The attention branch of the second network; the same as in version 1."""

    discriminator_channels: int = 64
    """Number of feature maps after the discriminator's first convolution; then 2 and 4 times as
    many."""
    mask_to_discriminator: bool = True
    """Whether the discriminator receives the mask beside the image."""
    discriminator_batches: Literal["fresh", "shared"] = "fresh"
    """Images of each update: "fresh" gives discriminator and generator one half of the step's batch
    each (released); "shared" gives both the whole batch."""

    coarse_weight: float = 1.0
    """Weight of the L1 loss of the coarse output."""
    image_weight: float = 1.0
    """Weight of the L1 loss of the final output."""
    adversarial_weight: float = 1.0
    """Weight of the generator's adversarial loss."""
    discriminator_weight: float = 0.5
    """Weight of each half of the hinge loss; 0.5 released, 1 in the paper."""

    learning_rate: float = 1e-4
    """Learning rate of both networks; constant as published."""
    beta1: float = 0.5
    """Adam's decay of the running mean of the gradient."""
    beta2: float = 0.999
    """Adam's decay of the running mean of the squared gradient."""

    def __post_init__(self) -> None:
        if self.channels < 4 or self.channels % 4:
            raise ValueError(f"channels must be a multiple of 4, not {self.channels}")
        if self.discriminator_channels < 1:
            raise ValueError(
                f"discriminator_channels must be at least 1, not {self.discriminator_channels}"
            )
        for name in ("num_dilated", "num_extra_convs", *_WEIGHTS):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")

    @property
    def share_multiple(self) -> int:
        """Two halves of a worker's share for the two updates of a step, if they are fresh."""
        return 2 if self.discriminator_batches == "fresh" else 1

    @property
    def size_multiple(self) -> int:
        """Multiples of 8: the encoders halve twice, and attention works at half of that."""
        return 8

    @classmethod
    def released(cls) -> "DeepFill2Config":
        """Return the network for the authors' TensorFlow weights, sampling included."""
        return cls(attention=AttentionConfig(downsample="align_corners"))

    @classmethod
    def tiny(cls) -> "DeepFill2Config":
        """Return a network of a few thousand parameters for tests."""
        return cls(
            channels=8, num_dilated=2, discriminator_channels=4, discriminator_batches="shared"
        )

    def without_attention(self) -> "DeepFill2Config":
        """Return the same configuration without the attention branch."""
        return replace(self, attention=replace(self.attention, kind="none"))


_WEIGHTS = ("coarse_weight", "image_weight", "adversarial_weight", "discriminator_weight")
