"""The numbers of AOT-GAN: its widths, its dilations, its losses."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from infill.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class AOTGANConfig(ModelConfig):
    """AOT-GAN as its authors released it, for images of 512 px.

    "Released" is the authors' PyTorch code.
    """

    architecture: ClassVar[str] = "aotgan"

    channels: int = 64
    """Number of feature maps at full size; doubled at each of two halvings."""
    num_blocks: int = 8
    """Number of AOT blocks at a quarter of the size."""
    rates: tuple[int, ...] = (1, 2, 4, 8)
    """Dilation of each branch of a block; the branches share its feature maps equally."""
    residual: Literal["gated", "identity"] = "gated"
    """How a block joins its input and its output: "gated" weighs them at every position by a
    learned gate, "identity" adds them."""
    discriminator_channels: int = 64
    """Number of feature maps after the discriminator's first convolution; at most 8 times as many
    later."""

    discriminator_target: Literal["soft", "hard", "patch"] = "soft"
    """What the discriminator learns to see in a composite: "soft" is the blurred mask
    (SM-PatchGAN), "hard" the mask itself, "patch" a hole everywhere, as in other patch GANs."""
    blur_px: int = 71
    """Side in pixels of the Gaussian window that blurs the mask; odd."""
    blur_deviation_px: float = 10.0
    """Standard deviation of that Gaussian in pixels."""
    adversarial_form: Literal["hide", "released"] = "hide"
    """The generator's adversarial loss: "hide" is the squared distance, inside the hole, to what
    the discriminator should see in originals; "released" is that of the code, to 1 everywhere,
    which is what it should see in holes."""

    image_weight: float = 1.0
    """Weight of the L1 loss over the whole image."""
    style_weight: float = 250.0
    """Weight of the style loss: the distance of Gram matrices of VGG-19's features."""
    perceptual_weight: float = 0.1
    """Weight of the perceptual loss: the distance of VGG-19's features."""
    adversarial_weight: float = 0.01
    """Weight of the generator's adversarial loss."""
    perceptual_weights: str | None = None
    """Path of torchvision's vgg19 state dict, or "random"; training needs it unless both
    ``perceptual_weight`` and ``style_weight`` are 0."""
    perceptual_sha256: str | None = None
    """SHA-256 of that file; None does not check it."""

    learning_rate: float = 1e-4
    """Learning rate of both networks; constant as released."""
    beta1: float = 0.5
    """Adam's decay of the running mean of the gradient, as released."""
    beta2: float = 0.999
    """Adam's decay of the running mean of the squared gradient, as released."""

    def __post_init__(self) -> None:
        for name in ("channels", "num_blocks", "discriminator_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.rates or min(self.rates) < 1 or self.block_channels % len(self.rates):
            raise ValueError(
                f"rates must be dilations of at least 1 whose number divides {self.block_channels} "
                f"feature maps, not {self.rates}"
            )
        if self.blur_px < 1 or self.blur_px % 2 == 0:
            raise ValueError(f"blur_px must be odd and at least 1, not {self.blur_px}")
        for name in ("blur_deviation_px", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")

    @property
    def block_channels(self) -> int:
        """Feature maps of the blocks, 256 as released."""
        return 4 * self.channels

    @property
    def size_multiple(self) -> int:
        """Multiples of 4: the generator halves the image twice."""
        return 4

    @classmethod
    def tiny(cls) -> "AOTGANConfig":
        """Return networks of a few thousand parameters for tests, without VGG."""
        return cls(
            channels=4,
            num_blocks=2,
            discriminator_channels=4,
            style_weight=0.0,
            perceptual_weight=0.0,
        )


_NOT_NEGATIVE = ("image_weight", "style_weight", "perceptual_weight", "adversarial_weight")
