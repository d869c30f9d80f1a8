"""The numbers of LaMa: its widths, its Fourier blocks, its losses."""

from dataclasses import dataclass
from typing import ClassVar

from infill.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class LaMaConfig(ModelConfig):
    """Big LaMa as its authors released it; ``variants.py`` has the paper's smaller ones.

    Sections are the paper's; "released" is the authors' PyTorch code.
    """

    architecture: ClassVar[str] = "lama"
    learning_rate_fields: ClassVar[tuple[str, ...]] = (
        "learning_rate",
        "discriminator_learning_rate",
    )

    channels: int = 64
    """Number of feature maps at full size; doubled at each of three halvings."""
    num_blocks: int = 18
    """Number of residual blocks, with two Fourier convolutions each: 18 in Big LaMa, 9 in the
    paper's."""
    global_share: float = 0.75
    """Share of the blocks' feature maps that go through the Fourier branch, whose receptive field
    is the whole image (Sec. 2.1)."""
    discriminator_channels: int = 64
    """Number of feature maps after the discriminator's first convolution; at most 8 times as many
    later."""

    known_weight: float = 10.0
    """Weight of the L1 loss outside the hole (Sec. 2.2)."""
    hole_weight: float = 0.0
    """Weight of the L1 loss inside the hole; 0 in the paper and as released."""
    adversarial_weight: float = 10.0
    """Weight of the generator's non-saturating loss."""
    penalty_weight: float = 0.001
    """Weight of the R1 penalty: the squared gradient of the discriminator at original images."""
    matching_weight: float = 100.0
    """Weight of the feature matching loss: the distance of the discriminator's features."""
    perceptual_weight: float = 30.0
    """Weight of the perceptual loss with a high receptive field."""
    perceptual_weights: str | None = None
    """Path of the perceptual network's state dict, a dilated ResNet-50 trained to segment ADE20K,
    or "random"; training needs it unless ``perceptual_weight`` is 0."""
    perceptual_sha256: str | None = None
    """SHA-256 of that file; None does not check it."""

    generates_again: bool = True
    """Whether the discriminator learns from images of the generator just updated, which runs once
    more for them, as in the released code; otherwise from those of the generator's own step. Of a
    batch in parts, all but the last meet the generator before its update."""

    learning_rate: float = 1e-3
    """Learning rate of the generator."""
    discriminator_learning_rate: float = 1e-4
    """Learning rate of the discriminator."""

    def base_learning_rate(self, role: str) -> float:
        """Return the generator's or the discriminator's learning rate."""
        return self.learning_rate if role == "generator" else self.discriminator_learning_rate

    def __post_init__(self) -> None:
        for name in ("channels", "num_blocks", "discriminator_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.global_share < 1 or self.global_channels % 2 or not self.global_channels:
            raise ValueError(
                f"global_share must leave an even number of {8 * self.channels} feature maps "
                f"global and some local, not {self.global_share}"
            )
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("learning_rate", "discriminator_learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")

    @property
    def size_multiple(self) -> int:
        """Multiples of 8: the generator halves the image three times."""
        return 8

    @property
    def global_channels(self) -> int:
        """Feature maps of the blocks that see the whole frame."""
        return int(8 * self.channels * self.global_share)

    @classmethod
    def tiny(cls) -> "LaMaConfig":
        """Return networks of a few thousand parameters for tests, without the perceptual loss."""
        return cls(channels=4, num_blocks=2, discriminator_channels=4, perceptual_weight=0.0)


_NOT_NEGATIVE = (
    "known_weight",
    "hole_weight",
    "adversarial_weight",
    "penalty_weight",
    "matching_weight",
    "perceptual_weight",
)
