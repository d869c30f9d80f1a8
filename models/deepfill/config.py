"""The numbers of DeepFill v1: its widths, its attention, its losses, its critics."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from infill.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Contextual attention (Sec. 3.2), as released unless a field says otherwise."""

    kind: Literal["contextual", "none"] = "contextual"
    """Whether the attention branch is built; "none" is the ablation."""
    scale: float = 10.0
    """Factor of the similarities before the softmax; lambda in Eq. 8."""
    fuse: bool = True
    """Whether neighbouring matches support each other (attention propagation)."""
    wrap: bool = True
    """Whether support runs on from the end of a line to the start of the next, as released."""
    downsample: Literal["stride", "align_corners"] = "stride"
    """How features and mask are thinned out: every second value, or the released sampling,
    which spreads the source indices from corner to corner. Imported weights want the latter."""
    mask_pool: Literal["nearest", "max"] = "nearest"
    """How the mask is thinned out: like the features, or so that no thin hole is lost."""
    normalize: Literal["background", "both"] = "background"
    """Whether similarities are divided by the norm of the background patch alone (released) or
    by both, which is the cosine of Eq. 7."""
    norm_floor: Literal["maximum", "added"] = "maximum"
    """How a norm is kept from zero: at least 1e-4 (released), or 1e-4 added to every square."""
    masked: Literal["zero", "neginf"] = "zero"
    """The logit of a background patch that touches the hole: 0 (released) or minus infinity."""
    overlap: Literal["fixed", "true_count"] = "fixed"
    """By what the sum of overlapping patches is divided: 4 everywhere (released, darkens the
    frame's border) or the number of patches that meet there."""

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"attention.scale must be positive, not {self.scale}")


@dataclass(frozen=True, kw_only=True)
class DeepFillConfig(ModelConfig):
    """DeepFill v1 as its authors released it; every width follows ``channels``."""

    architecture: ClassVar[str] = "deepfill"

    channels: int = 32
    """Feature maps after the first convolution; 2 and 4 times as many at half and quarter size."""
    padding: Literal["same", "mirror", "centred"] = "same"
    """At the frame's border: zeros laid out as TensorFlow does (released), mirrored pixels (the
    paper's text), or zeros in equal number on both sides (the known PyTorch port)."""
    refinement: Literal["released", "paper"] = "released"
    """Widths of the second network's encoders: 32-32-64-64 (released) or 32-64-64-128 (paper)."""
    num_dilated: int = 4
    """Dilated convolutions in a row, with dilations 2, 4, 8, 16, ..."""
    num_extra_convs: int = 0
    """Further plain convolutions before the dilated ones of each stage, 147,584 parameters each."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """The attention branch of the second network."""

    image_size_px: int = 256
    """Side of the training images; the global critic's last layer is made for it."""
    local_size_px: int = 128
    """Side of the window around the hole that the local critic sees."""
    gan: Literal["wgan_gp", "hinge", "dcgan", "lsgan"] = "wgan_gp"
    """The adversarial loss; all but WGAN-GP are ablations of Sec. 3.3."""
    critic_updates: int = 5
    """Updates of the critics for one of the generator."""
    critic_batches: Literal["fresh", "shared"] = "fresh"
    """Whether each update has images of its own, critic_updates + 1 equal slices of a step's
    batch (released), or all of them the whole batch."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty, WGAN-GP only."""

    discount: Literal["box", "distance"] = "box"
    """Where the spatially discounted L1 is taken: in the window, discounted from its border
    (released), or on the hole's own pixels, discounted by distance to the nearest known one."""
    discount_rate: float = 0.9
    """Weight lost per pixel of distance; gamma, 0.99 in the paper, 0.9 released."""
    hole_weight: float = 1.2
    """Weight of the spatially discounted L1."""
    known_weight: float = 1.2
    """Weight of the L1 on known pixels; not in the paper, 0 leaves it out."""
    coarse_factor: float = 1.2
    """Further factor of both L1 terms of the coarse picture."""
    refined_factor: float = 1.0
    """Further factor of both L1 terms of the final picture; 0 is the ablation without."""
    adversarial_weight: float = 0.001
    """Weight of the generator's adversarial loss."""
    coarse_steps: int = 0
    """For so many steps only the coarse network is trained, and no critic."""

    learning_rate: float = 1e-4
    """Of both networks; constant as published."""
    beta1: float = 0.5
    """Adam's decay of the mean gradient."""
    beta2: float = 0.9
    """Adam's decay of the mean squared gradient."""

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
    def size_multiple(self) -> int:
        """Multiples of 8: the encoders halve twice, and attention works at half of that."""
        return 8

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
