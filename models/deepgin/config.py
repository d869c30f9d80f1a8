"""The numbers of DeepGIN: its blocks, its attention, its losses, its two stages."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from infill.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class DeepGINConfig(ModelConfig):
    """DeepGIN as its authors released it, the last row of Table 1 (SPDResBlk-MSSA-BP).

    Tables and sections are the paper's; "released" is the authors' PyTorch code.
    """

    architecture: ClassVar[str] = "deepgin"
    learning_rate_fields: ClassVar[tuple[str, ...]] = (
        "learning_rate",
        "discriminator_learning_rate",
    )
    step_fields: ClassVar[tuple[str, ...]] = ("epoch_steps",)

    channels: int = 32
    """Number of feature maps at full size; doubled at each halving, up to 16 times as many."""
    refine: bool = True
    """Whether the second network is built; without it the coarse output is the final one (Table
    1)."""
    block: Literal["spd", "dilated", "standard"] = "spd"
    """Kind of residual block (Table 1): "spd" is a spatial pyramid of dilations, "dilated" has
    dilation 2, "standard" none."""
    coarse_rates: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10, 1)
    """Parallel dilations in the first network's pyramids, in the released order."""
    refine_rates: tuple[int, ...] = (2, 3, 4, 5)
    """Parallel dilations in the second network's pyramids."""
    num_coarse_blocks: int = 6
    """Number of residual blocks of the first network; each has 1,180,160 parameters."""
    num_refine_blocks: int = 6
    """Number of residual blocks of the second network; each has 4,719,616 parameters."""
    attention: Literal["multi_scale", "single", "none"] = "multi_scale"
    """Self-attention (Table 1): "multi_scale" between the second network's blocks and on two skip
    connections; "single" between the blocks alone, without skip connections; or "none"."""
    back_projection: bool = True
    """Whether a small output corrects the large one (BP in Table 1)."""

    segmentation_guided: bool = False
    """Whether both networks also see a label map of the whole image, three channels after the mask,
    as released for the challenge's track with segmentation. Training then needs ``label_maps`` of
    the data."""

    initial_gain: float = 0.1
    """Factor of Kaiming's initialization. The released 0.1 makes learning start slowly."""
    attention_starts_as_identity: bool = False
    """Whether the attention's last convolution starts at zero, as in non-local networks; the
    released code overwrites that."""

    hole_weight: float = 5.0
    """Weight of an L1 error inside the hole; the weight outside is 1."""
    adversarial_weight: float = 0.001
    """Weight of the generator's hinge loss."""
    perceptual_weight: float = 0.05
    """Weight of the perceptual loss: the distance of VGG-19's features."""
    style_weight: float = 80.0
    """Weight of the style loss: the distance of their Gram matrices."""
    variation_weight: float = 0.1
    """Weight of the composite's total variation."""
    discriminator_weight: float = 0.5
    """Factor of the discriminators' hinge loss: 0.5 as released, 1 as printed."""
    perceptual_layer_weights: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
    """Weights of the five VGG layers, as released; the paper's are all equal."""
    perceptual_taps: Literal["released", "before_relu"] = "released"
    """VGG outputs of the perceptual loss, conv1_1 to conv5_1. "released": the first four after
    their ReLU and the last before it, the effect of the released in-place ReLUs; "before_relu": all
    before, as the paper says."""
    perceptual_size_px: int = 224
    """Side in pixels to which images are resized for VGG-19, as released; 0 does not resize."""
    style_form: Literal["squared", "absolute"] = "squared"
    """Distance of Gram matrices: squared as released, or absolute as printed."""
    variation_form: Literal["squared", "absolute"] = "squared"
    """Total variation: twice the squared differences as released, or absolute differences as
    printed."""
    perceptual_weights: str | None = None
    """Path of torchvision's vgg19 state dict, or "random"; training needs it."""
    perceptual_sha256: str | None = None
    """SHA-256 of that file; None does not check it."""

    learning_rate: float = 1e-4
    """Learning rate of the generator."""
    discriminator_learning_rate: float = 4e-4
    """Learning rate of the discriminators."""
    beta1: float = 0.5
    """Adam's decay of the running mean of the gradient."""
    beta2: float = 0.999
    """Adam's decay of the running mean of the squared gradient."""
    epoch_steps: int = 1
    """Number of steps in an epoch, for the next three fields."""
    warm_up_epochs: int = 0
    """Number of epochs of the first stage: L1 losses alone, without discriminators. The paper's is
    10."""
    constant_epochs: int = 11
    """Number of epochs of the second stage before the learning rates fall; 11 as released."""
    decay_epochs: int = 0
    """Number of epochs over which the learning rates then fall linearly to zero; 0 keeps them
    constant. The paper's is 90."""

    def base_learning_rate(self, role: str) -> float:
        """Return the generator's or the discriminator's learning rate."""
        return self.learning_rate if role == "generator" else self.discriminator_learning_rate

    def published_learning_rate(self, role: str, step: int) -> float:
        """Return a constant rate, then one that falls linearly towards zero (Sec. 5.1)."""
        rate = self.base_learning_rate(role)
        if not self.decay_epochs:
            return rate
        epoch = step // self.epoch_steps - self.warm_up_epochs + 1
        fallen = max(0, epoch - self.constant_epochs) / self.decay_epochs
        return rate * max(0.0, 1.0 - fallen)

    def __post_init__(self) -> None:
        for name in ("channels", "num_coarse_blocks", "num_refine_blocks", "epoch_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, width in (("coarse_rates", 8), ("refine_rates", 16)):
            rates = getattr(self, name)
            if not rates or min(rates) < 1 or width * self.channels % len(rates):
                raise ValueError(
                    f"{name} must be dilations of at least 1 whose number divides "
                    f"{width * self.channels} feature maps, not {rates}"
                )
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("learning_rate", "discriminator_learning_rate", "initial_gain"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        if len(self.perceptual_layer_weights) != 5:
            raise ValueError(
                "perceptual_layer_weights must be 5 numbers, one for each layer, not "
                f"{len(self.perceptual_layer_weights)}"
            )
        if self.back_projection and not self.refine:
            raise ValueError("back_projection corrects the second network's image: refine it")

    @property
    def takes_labels(self) -> bool:
        """Whether label maps guide the networks."""
        return self.segmentation_guided

    @property
    def input_channels(self) -> int:
        """Input of both networks: colours and mask, and the colours of a label map."""
        return 7 if self.segmentation_guided else 4

    @property
    def size_multiple(self) -> int:
        """Multiples of 16: the second network halves the image four times."""
        return 16

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature maps at full, half, quarter, eighth and sixteenth size."""
        return tuple(factor * self.channels for factor in (1, 2, 4, 8, 16))

    @property
    def pyramid_rates(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Dilations side by side in the blocks of the first network, and of the second."""
        if self.block == "spd":
            return self.coarse_rates, self.refine_rates
        return ((2,), (2,)) if self.block == "dilated" else ((1,), (1,))

    @classmethod
    def tiny(cls) -> "DeepGINConfig":
        """Return networks of a few thousand parameters for tests, and a VGG nobody trained."""
        return cls(
            channels=4,
            num_coarse_blocks=2,
            num_refine_blocks=2,
            initial_gain=1.0,
            perceptual_size_px=0,
            perceptual_weights="random",
            adversarial_weight=0.1,
        )


_NOT_NEGATIVE = (
    "hole_weight",
    "adversarial_weight",
    "perceptual_weight",
    "style_weight",
    "variation_weight",
    "discriminator_weight",
    "perceptual_size_px",
    "warm_up_epochs",
    "constant_epochs",
    "decay_epochs",
)
