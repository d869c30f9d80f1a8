"""The numbers of MADF: its widths, its decoders, its losses and which output each one grades."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from infill.models.config import ModelConfig

WIDEST = 8
"""Channels double from level to level until they are this many times the first level's."""
RELEASED_SLIP_LIMIT = 2
"""The released style term is known for up to this many refinement decoders."""


@dataclass(frozen=True, kw_only=True)
class MADFConfig(ModelConfig):
    """MADF as its authors released it, at the paper's best row (Table II: K = 2 with PN).

    Tables and sections are the paper's; "released" is the authors' PyTorch code. A level is one
    halving of the image; level 1 is the first.
    """

    architecture: ClassVar[str] = "madf"

    encoder: Literal["dynamic", "gated", "partial"] = "dynamic"
    """Kind of encoder (Table II): "dynamic" makes a kernel from the mask at every position (MADF),
    "gated" has gated convolutions instead (GConv), "partial" is the plain U-Net of partial
    convolutions (PConv), with its own decoder."""
    num_refinements: int = 2
    """Number of refinement decoders beside the recovery decoder, 0 to 3; K in Table II."""
    refinement_norm: Literal["pointwise", "batch"] = "pointwise"
    """Norm of the refinement decoders: "pointwise" is conditioned on the features of the previous
    decoder (PN); "batch" is batch norm (Table II, "no PN"), which passes on only its output
    image."""

    levels: int = 7
    """Number of halvings of the image; layer_size in the authors' code."""
    channels: int = 16
    """Number of features of the filtered image at level 1; at most 8 times as many at deeper
    levels."""
    mask_channels: int = 16
    """Number of features of the mask from which a position's kernel is made."""
    decoder_channels: int = 64
    """Number of features in skip connections and decoders at level 1; at most 8 times as many at
    deeper levels."""
    norm_channels: int = 128
    """Number of features inside a point-wise norm between condition and gain."""
    dead_norms: bool = False
    """Whether to keep the batch norms that the released encoder declares and never runs: 1,248
    parameters that are saved and counted but never trained."""

    supervision: Literal["coarse_to_fine", "none", "same"] = "coarse_to_fine"
    """Outputs that each loss sees (Table III). "coarse_to_fine": L1 on every output, perceptual
    from the second on, style and variation on the last; "none": all losses on the last only;
    "same": all losses on every output."""
    style_target: Literal["last", "released"] = "last"
    """Output of the style loss under coarse_to_fine: the last, or as "released", where the index is
    off by one at K = 2 and selects the one before the last."""
    known_weight: float = 1.0
    """Weight of the L1 loss outside the hole."""
    hole_weight: float = 6.0
    """Weight of the L1 loss inside the hole."""
    perceptual_weight: float = 0.05
    """Weight of the perceptual loss: the distance of VGG-16's features."""
    style_weight: float = 120.0
    """Weight of the style loss: the distance of their Gram matrices."""
    variation_weight: float = 0.1
    """Weight of the composite's total variation."""
    perceptual_weights: str | None = None
    """Path of torchvision's vgg16 state dict, or "random"; training needs it unless both
    ``perceptual_weight`` and ``style_weight`` are 0."""
    perceptual_sha256: str | None = None
    """SHA-256 of that file; None does not check it."""

    learning_rate: float = 2e-4
    """Learning rate of the network; constant as published."""
    beta1: float = 0.9
    """Adam's decay of the running mean of the gradient."""
    beta2: float = 0.999
    """Adam's decay of the running mean of the squared gradient."""

    def __post_init__(self) -> None:
        if not 0 <= self.num_refinements <= 3:
            raise ValueError(f"num_refinements must be 0 to 3, not {self.num_refinements}")
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, not {self.levels}")
        for name in ("channels", "mask_channels", "decoder_channels", "norm_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in _WEIGHTS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        self._refuse_what_does_not_go_together()

    def _refuse_what_does_not_go_together(self) -> None:
        if self.encoder == "partial" and self.num_refinements:
            raise ValueError(
                "encoder 'partial' is a whole U-Net without refinement decoders: num_refinements "
                f"must be 0, not {self.num_refinements}"
            )
        if self.dead_norms and self.encoder != "dynamic":
            raise ValueError(f"dead_norms belong to encoder 'dynamic', not {self.encoder!r}")
        if self.style_target == "released" and self.num_refinements > RELEASED_SLIP_LIMIT:
            raise ValueError(
                f"style_target 'released' is known up to {RELEASED_SLIP_LIMIT} num_refinements, "
                f"not {self.num_refinements}; take 'last'"
            )

    @property
    def size_multiple(self) -> int:
        """Multiples of 2^levels, 128 px as published: every level halves the image."""
        return int(2**self.levels)

    @property
    def growth(self) -> tuple[int, ...]:
        """Each level's width as a multiple of the first level's: 1, 2, 4, 8, 8, ..."""
        return tuple(min(WIDEST, int(2**level)) for level in range(self.levels))

    @property
    def filter_widths(self) -> tuple[int, ...]:
        """Features of the filtered image, level 1 first; the paper's min(128, 16 * 2^(l-1))."""
        return tuple(self.channels * factor for factor in self.growth)

    @property
    def skip_widths(self) -> tuple[int, ...]:
        """Features of skip connections and decoders, level 1 first."""
        return tuple(self.decoder_channels * factor for factor in self.growth)

    @classmethod
    def tiny(cls) -> "MADFConfig":
        """Return networks of a few thousand parameters for tests, and a VGG nobody trained."""
        return cls(
            levels=5,
            channels=2,
            mask_channels=4,
            decoder_channels=4,
            norm_channels=6,
            perceptual_weights="random",
        )


_WEIGHTS = (
    "known_weight",
    "hole_weight",
    "perceptual_weight",
    "style_weight",
    "variation_weight",
)
