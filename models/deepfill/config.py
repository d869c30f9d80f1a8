"""The numbers of DeepFill v1: its widths, its attention, its losses, its critics."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from infill.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Contextual attention (Sec. 4.1), as released unless a field says otherwise."""

    kind: Literal["contextual", "none"] = "contextual"
    """Whether the attention branch is built; "none" is the paper's ablation."""
    scale: float = 10.0
    """Factor of the similarities before the softmax; the paper's lambda (Sec. 4.1)."""
    fuse: bool = True
    """Whether neighbouring matches reinforce each other (attention propagation)."""
    wrap: bool = True
    """Whether propagation continues from the end of a line to the start of the next, as
    released."""
    downsample: Literal["stride", "align_corners"] = "stride"
    """How features and mask are downsampled: "stride" takes every second value; "align_corners" is
    the released sampling, which spreads the source indices from corner to corner. Imported weights
    need the latter."""
    mask_pool: Literal["nearest", "max"] = "nearest"
    """How the mask is downsampled: "nearest" as the features, or "max", which keeps every thin
    hole."""
    normalize: Literal["background", "both"] = "background"
    """Norms by which similarities are divided: that of the background patch alone (released), or
    both, which is the paper's cosine (Sec. 4.1)."""
    norm_floor: Literal["maximum", "added"] = "maximum"
    """How a norm is kept above zero: "maximum" makes it at least 1e-4 (released), "added" adds 1e-4
    to every square."""
    masked: Literal["zero", "neginf"] = "zero"
    """Logit of a background patch that touches the hole: 0 (released) or minus infinity."""
    overlap: Literal["fixed", "true_count"] = "fixed"
    """Divisor of the sum of overlapping patches: 4 everywhere (released; darkens the image's
    border), or the true number of overlapping patches."""

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"attention.scale must be positive, not {self.scale}")


@dataclass(frozen=True, kw_only=True)
class DeepFillConfig(ModelConfig):
    """DeepFill v1 as its authors released it; every width is a multiple of ``channels``."""

    architecture: ClassVar[str] = "deepfill"
    step_fields: ClassVar[tuple[str, ...]] = ("coarse_steps",)

    channels: int = 32
    """Number of feature maps after the first convolution; 2 and 4 times as many at half and quarter
    size."""
    padding: Literal["same", "mirror", "centred"] = "same"
    """Padding at the image's border: zeros placed as TensorFlow does (released), mirrored pixels
    (the paper's text), or zeros in equal number on both sides (the known PyTorch port)."""
    refinement: Literal["released", "paper"] = "released"
    """Widths of the second network's encoders: 32-32-64-64 (released) or 32-64-64-128 (paper)."""
    num_dilated: int = 4
    """Number of consecutive dilated convolutions, with dilations 2, 4, 8, 16, ..."""
    num_extra_convs: int = 0
    """Number of further plain convolutions before the dilated ones of each stage; each has 147,584
    parameters."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """The attention branch of the second network."""

    image_size_px: int = 256
    """Side of the training images in pixels; the global critic's last layer has this size."""
    local_size_px: int = 128
    """Side in pixels of the window around the hole that the local critic sees."""
    gan: Literal["wgan_gp", "hinge", "dcgan", "lsgan"] = "wgan_gp"
    """The adversarial loss; all but WGAN-GP are ablations of Sec. 5.1."""
    critic_updates: int = 5
    """Number of critic updates per generator update."""
    critic_batches: Literal["fresh", "shared"] = "fresh"
    """Images of each update: "fresh" cuts a step's batch into critic_updates + 1 equal slices
    (released); "shared" gives every update the whole batch."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty, for WGAN-GP only."""

    discount: Literal["box", "distance"] = "box"
    """Region of the spatially discounted L1: "box" is the window, discounted from its border
    (released); "distance" is the hole's own pixels, discounted by their distance to the nearest
    known pixel."""
    discount_rate: float = 0.9
    """Factor of the weight per pixel of distance; gamma, 0.99 in the paper, 0.9 released."""
    hole_weight: float = 1.2
    """Weight of the spatially discounted L1 loss."""
    known_weight: float = 1.2
    """Weight of the L1 loss on known pixels, which the paper does not have; 0 leaves it out."""
    coarse_factor: float = 1.2
    """Further factor of both L1 losses of the coarse output."""
    refined_factor: float = 1.0
    """Further factor of both L1 losses of the final output; 0 is the paper's ablation."""
    adversarial_weight: float = 0.001
    """Weight of the generator's adversarial loss."""
    coarse_steps: int = 0
    """Number of first steps in which only the coarse network is trained, without critics."""

    learning_rate: float = 1e-4
    """Learning rate of both networks; constant as published."""
    beta1: float = 0.5
    """Adam's decay of the running mean of the gradient."""
    beta2: float = 0.9
    """Adam's decay of the running mean of the squared gradient."""

    def __post_init__(self) -> None:
        if self.channels < 2 or self.channels % 2:
            raise ValueError(f"channels must be an even number from 2, not {self.channels}")
        for name in ("num_dilated", "num_extra_convs", "coarse_steps", *_WEIGHTS):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("image_size_px", "local_size_px"):
            if getattr(self, name) < 16 or getattr(self, name) % 16:
                raise ValueError(f"{name} must be a multiple of 16, not {getattr(self, name)}")
        if self.local_size_px > self.image_size_px:
            raise ValueError(
                f"local_size_px {self.local_size_px} must not exceed "
                f"image_size_px {self.image_size_px}"
            )
        if self.critic_updates < 1:
            raise ValueError(f"critic_updates must be at least 1, not {self.critic_updates}")
        if not 0 < self.discount_rate <= 1:
            raise ValueError(f"discount_rate must lie in (0, 1], not {self.discount_rate}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")

    @property
    def share_multiple(self) -> int:
        """One slice of a worker's share for each update of a step, if they are fresh."""
        return self.critic_updates + 1 if self.critic_batches == "fresh" else 1

    @property
    def size_multiple(self) -> int:
        """Multiples of 8: the encoders halve twice, and attention works at half of that."""
        return 8

    @property
    def training_size_px(self) -> int:
        """The global critic ends in a layer with a weight for each of its positions."""
        return self.image_size_px

    @classmethod
    def released(cls) -> "DeepFillConfig":
        """Return the network for the authors' TensorFlow weights, sampling included."""
        return cls(attention=AttentionConfig(downsample="align_corners"))

    @classmethod
    def port(cls) -> "DeepFillConfig":
        """Return the network for weights trained with the known PyTorch port."""
        return cls(padding="centred", attention=AttentionConfig(norm_floor="added"))

    @classmethod
    def baseline(cls) -> "DeepFillConfig":
        """Return Table 1's baseline: two coarse networks in a row, no attention."""
        return cls(refinement="paper", attention=AttentionConfig(kind="none"))

    @classmethod
    def tiny(cls) -> "DeepFillConfig":
        """Return a network of a few thousand parameters for tests, for 64-pixel images."""
        return cls(
            channels=4,
            num_dilated=2,
            image_size_px=64,
            local_size_px=32,
            critic_updates=2,
            critic_batches="shared",
        )

    def without_attention(self) -> "DeepFillConfig":
        """Return the same configuration without the attention branch."""
        return replace(self, attention=replace(self.attention, kind="none"))


_WEIGHTS = (
    "penalty_weight",
    "hole_weight",
    "known_weight",
    "coarse_factor",
    "refined_factor",
    "adversarial_weight",
)
