"""The numbers of PEN-Net: its widths, its attention, its losses, its schedule."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from infill.models.config import ModelConfig

LEVELS = 5
"""Skip connections between encoder and decoder; level 1 is the one at half the image's size."""


@dataclass(frozen=True, kw_only=True)
class PENNetConfig(ModelConfig):
    """PEN-Net as its authors released it; every width is a multiple of ``channels``.

    Equations and tables are the paper's; "released" is the authors' PyTorch code.
    """

    architecture: ClassVar[str] = "pennet"
    step_fields: ClassVar[tuple[str, ...]] = ("learning_rate_drop_steps",)

    channels: int = 32
    """Number of feature maps after the first convolution; 2, 4, 8, 16 and 16 times as many in the
    next."""
    discriminator_channels: int = 64
    """Number of feature maps after the discriminator's first convolution; 2, 4, 8 times as many in
    the next."""

    attention: Literal["cross_layer", "single", "same_layer", "patch_swap", "none"] = "cross_layer"
    """How the skip connections are inpainted: by attention learned one level deeper, at every level
    ("cross_layer") or at one ("single", Table 6); by attention learned on the level itself
    ("same_layer"); by the nearest patch at one level ("patch_swap", Table 6); or not at all
    ("none", a plain U-Net)."""
    attention_level: int = 2
    """Level of "single" and "patch_swap", 1 (finest) to 5; the paper does not give it."""
    softmax_scale: float = 10.0
    """Factor of the attention scores before the softmax (released; the paper prints none)."""
    normalise_queries: bool = False
    """Whether queries are divided by their length, as keys are: cosine similarity (Eq. 2), bounded
    scores."""
    hidden_keys: Literal["score_zero", "excluded"] = "score_zero"
    """Treatment of a key that touches the hole: "score_zero" keeps the score 0 and its share of the
    softmax (released), "excluded" leaves it out of the softmax (Eq. 3)."""
    mask_resize: Literal["bilinear", "nearest", "largest"] = "bilinear"
    """How the mask is resized to a level: by 2 x 2 samples (released), by one (paper), or by the
    largest value of each cell, which keeps every thin hole."""
    filled: Literal["everywhere", "hole"] = "everywhere"
    """Positions that are replaced by attended patches: all (released), or those in the hole (Eq.
    4)."""
    overlap: Literal["quarter", "mean"] = "quarter"
    """Divisor of the sum of overlapping patches: "quarter" is 4 even at the border, where only one
    or two overlap (released); "mean" is their true number."""
    attention_floor: float = 0.0
    """Minimum weight of any key. The released 1e-8 changes outputs by 1.5e-5 and lets keys in the
    hole contribute; 0 sets no minimum."""

    adversarial: Literal["hinge", "nsgan", "lsgan"] = "hinge"
    """The GAN loss: hinge for CelebA-HQ and Places2, nsgan for DTD and Facade (released)."""
    adversarial_weight: float = 0.1
    """Weight of the generator's adversarial loss; lambda_G in Eq. 10."""
    pyramid_weight: float = 0.5
    """Weight of the pyramid L1 loss; lambda_pd in Eq. 10."""
    pyramid_has_final: bool = False
    """Whether the pyramid L1 loss includes the full-size image: our reading of Eq. 6, whose sum
    ends with the finest map. Released, that image has L1 losses of its own in and outside the
    hole."""
    hole_weight: float = 6.0
    """Weight of the L1 loss inside the hole at full size (released only)."""
    known_weight: float = 1.0
    """Weight of the L1 loss outside the hole at full size (released only)."""

    learning_rate: float = 1e-4
    """Learning rate of both networks."""
    beta1: float = 0.5
    """Adam's decay of the running mean of the gradient."""
    beta2: float = 0.999
    """Adam's decay of the running mean of the squared gradient."""
    learning_rate_drop_steps: tuple[int, ...] = ()
    """Steps at which both learning rates fall to a tenth."""

    def published_learning_rate(self, role: str, step: int) -> float:
        """Return a rate that falls to a tenth at each of ``learning_rate_drop_steps``."""
        return self.learning_rate * 0.1 ** sum(step >= d for d in self.learning_rate_drop_steps)

    def __post_init__(self) -> None:
        for name in ("channels", "discriminator_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.channels % 4:
            raise ValueError(
                f"channels must be a multiple of 4, not {self.channels}: each attention is "
                "refined by four convolutions that make a quarter of them each"
            )
        if not 1 <= self.attention_level <= LEVELS:
            raise ValueError(
                f"attention_level must be 1 (finest) to {LEVELS}, not {self.attention_level}"
            )
        for name in ("softmax_scale", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")

    @property
    def size_multiple(self) -> int:
        """Multiples of 64: the encoder halves the image six times."""
        return 64

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature maps of the six encoder convolutions, finest first."""
        return tuple(factor * self.channels for factor in (1, 2, 4, 8, 16, 16))

    @property
    def attended_levels(self) -> tuple[int, ...]:
        """The levels whose skip connection is filled, deepest first."""
        if self.attention == "none":
            return ()
        if self.attention in ("single", "patch_swap"):
            return (self.attention_level,)
        return tuple(range(LEVELS, 0, -1))

    @classmethod
    def as_printed(cls) -> "PENNetConfig":
        """Return the paper's own attention and losses, where they differ from the release.

        Cosine similarity without temperature, a softmax over known patches, patches only in the
        hole (Eq. 2 to 4), and no loss terms beyond Eq. 10. The pyramid loss includes the full-size
        image, which no other term compares with the original.
        """
        return cls(
            softmax_scale=1.0,
            normalise_queries=True,
            hidden_keys="excluded",
            mask_resize="nearest",
            filled="hole",
            hole_weight=0.0,
            known_weight=0.0,
            pyramid_has_final=True,
        )

    @classmethod
    def tiny(cls) -> "PENNetConfig":
        """Return networks of a few thousand parameters for tests."""
        return cls(channels=4, discriminator_channels=4)


_NOT_NEGATIVE = (
    "attention_floor",
    "adversarial_weight",
    "pyramid_weight",
    "hole_weight",
    "known_weight",
)
