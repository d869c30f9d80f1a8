"""The numbers of SPN: its widths and depths, its teacher, its losses, its schedule."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from infill.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class SPNConfig(ModelConfig):
    """SPN as its authors released it; every width is a multiple of ``channels``.

    Equations and sections are the paper's; "released" is the authors' code.
    """

    architecture: ClassVar[str] = "spn"
    step_fields: ClassVar[tuple[str, ...]] = ("learning_rate_drop_step", "prior_stop_step")

    variant: Literal["deterministic", "probabilistic"] = "deterministic"
    """"deterministic" predicts one result per hole; "probabilistic" samples several from a Gaussian
    latent (Sec. 3.1.2)."""
    channels: int = 64
    """Number of feature maps after the first convolution; 2, 4 and 8 times as many in the
    others."""
    num_blocks: int = 8
    """Number of SPADE residual blocks between image encoder and decoder (Table 4: 4, 8, 12)."""
    num_dense_blocks: int = 16
    """Number of residual dense blocks of the prior learner."""
    num_dense_layers: int = 6
    """Number of convolutions in one residual dense block; each adds channels / 2 feature maps."""
    num_prior_blocks: int = 4
    """Number of residual blocks between the dense blocks and the coarsest prior."""
    prior_levels: Literal[1, 2, 3] = 3
    """Number of levels of the prior pyramid that modulate the decoder, coarsest first (Table 3)."""
    fusion: Literal["spade", "concat"] = "spade"
    """How the prior enters the generator; "concat" is the ablation without SPADE (Fig. 7)."""
    semantic_slope: float = 0.0
    """Negative slope of the ReLUs in the prior learner's encoder: 0 for SPN, 0.1 for its
    predecessor SPL."""

    teacher: Literal["asl", "filterbank", "random", "edge", "spn", "detection", "segmentation"] = (
        "asl"
    )
    """The teacher that the prior imitates: "asl" is the paper's TResNet-L, "filterbank" a fixed
    bank of oriented filters, "random" a TResNet with random weights, "edge" gradient magnitudes,
    "spn" the prior pyramid of a trained SPN (Table 5), "detection" YOLOv5-L of COCO and
    "segmentation" HRNetV2-W48 of ADE20K (Fig. 8)."""
    teacher_weights: str | None = None
    """Path of the ASL checkpoint, TResNet-L trained on OpenImages; needed by teacher "asl"."""
    teacher_sha256: str | None = None
    """SHA-256 of that file; None does not check it."""

    prior_teacher_weights: str | None = None
    """Path of a trained SPN in its authors' file format; needed by teacher "spn"."""
    prior_teacher_sha256: str | None = None
    """SHA-256 of that file; None does not check it."""
    detection_weights: str | None = None
    """Path of YOLOv5-L as its authors publish it since version 6; needed by teacher "detection"."""
    detection_sha256: str | None = None
    """SHA-256 of that file; None does not check it."""
    segmentation_weights: str | None = None
    """Path of the encoder of HRNetV2-W48 trained on ADE20K; needed by teacher "segmentation"."""
    segmentation_sha256: str | None = None
    """SHA-256 of that file; None does not check it."""

    image_weight: float = 10.0
    """Weight of the reconstruction loss; lambda_1 in Eq. 12."""
    hole_emphasis: float = 2.0
    """Extra weight of an error inside the hole; delta in Eq. 10 (paper 4, released 2)."""
    prior_weight: float = 1.0
    """Weight of the distillation loss (Eq. 4); 0 builds neither teacher nor heads."""
    prior_hole_emphasis: float = 3.0
    """Extra weight of a prior's error inside the hole; alpha in Eq. 4."""
    adversarial_weight: float = 1.0
    """Weight of the generator's adversarial loss; lambda_2 in Eq. 12."""

    feature_matching_weight: float = 10.0
    """Probabilistic only: weight of the feature matching loss, the distance of the discriminator's
    features; lambda_3 in Eq. 15."""
    perceptual_weight: float = 10.0
    """Probabilistic only: weight of the perceptual loss, the distance of VGG-19's features;
    lambda_3 as well."""
    perceptual_layer_weights: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
    """Probabilistic only: weights of relu1_1 to relu5_1, as released; the paper's are 1/5 each."""
    perceptual_weights: str | None = None
    """Probabilistic only: path of torchvision's vgg19 state dict, or "random"."""
    perceptual_sha256: str | None = None
    """SHA-256 of that file; None does not check it."""
    perceptual_normalised: bool = False
    """Whether colours are normalized for VGG-19 as for ImageNet; the authors do not."""
    diversity_weight: float = 1.0
    """Probabilistic only: weight of the similarity of two samples; lambda_4 in Eq. 15."""
    diversity_form: Literal["released", "paper"] = "released"
    """Form of the diversity loss: the inverse of the summed distances per masked area ("released"),
    or Eq. 14 as printed ("paper")."""
    latent_weight: float = 0.05
    """Probabilistic only: weight of the latent's KL divergence; lambda_5 in Eq. 15."""
    latent_form: Literal["released", "paper"] = "released"
    """Direction of that divergence: from the normal distribution to the latent's ("released"), or
    the other way as in Eq. 6 ("paper")."""

    learning_rate: float = 1e-4
    """Learning rate of both networks."""
    beta1: float = 0.0
    """Adam's decay of the running mean of the gradient."""
    beta2: float = 0.9
    """Adam's decay of the running mean of the squared gradient."""
    learning_rate_drop_step: int | None = None
    """Step from which the learning rate is a tenth; None never lowers it."""
    prior_stop_step: int | None = None
    """Step from which the distillation loss has weight 0; None never stops it."""

    def published_learning_rate(self, role: str, step: int) -> float:
        """Return the constant rate, a tenth of it from ``learning_rate_drop_step`` on."""
        drop = self.learning_rate_drop_step
        return self.learning_rate * (0.1 if drop is not None and step >= drop else 1.0)

    def __post_init__(self) -> None:
        for name in ("num_blocks", "num_dense_blocks", "num_dense_layers", "num_prior_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.channels < 2 or self.channels % 2:
            raise ValueError(f"channels must be an even number from 2, not {self.channels}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        for name in _WEIGHTS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.fusion == "concat" and self.prior_levels != 3:
            raise ValueError("fusion 'concat' is defined for prior_levels 3 only")
        if len(self.perceptual_layer_weights) != 5:
            raise ValueError(
                "perceptual_layer_weights are five numbers, one for each of relu1_1 to relu5_1, "
                f"not {len(self.perceptual_layer_weights)}"
            )
        if self.variant == "probabilistic" and (self.fusion, self.prior_levels) != ("spade", 3):
            raise ValueError("the probabilistic variant is defined for spade and 3 prior_levels")

    @property
    def size_multiple(self) -> int:
        """Multiples of 4, as the encoders halve twice; 32 with the latent's three halvings."""
        return 32 if self.variant == "probabilistic" else 4

    @property
    def has_heads(self) -> bool:
        """Whether the prior is taught, so that teacher and heads are built."""
        return self.prior_weight > 0

    def spade_hidden_channels(self, prior_channels: int) -> int:
        """Return the width between a prior and its gains: 128 at full width.

        The probabilistic release does not widen a narrower prior.
        """
        hidden = 2 * self.channels
        return min(hidden, prior_channels) if self.variant == "probabilistic" else hidden

    @classmethod
    def spl(cls) -> "SPNConfig":
        """Return SPL, the single-level predecessor (IJCAI 2021) and the baseline of Table 1."""
        return cls(prior_levels=1, semantic_slope=0.1)

    @classmethod
    def tiny(cls) -> "SPNConfig":
        """Return a network of a few thousand parameters for tests."""
        return cls(
            channels=2,
            num_blocks=1,
            num_dense_blocks=2,
            num_dense_layers=2,
            num_prior_blocks=1,
            teacher="filterbank",
        )


_WEIGHTS = (
    "image_weight",
    "hole_emphasis",
    "prior_weight",
    "prior_hole_emphasis",
    "adversarial_weight",
    "feature_matching_weight",
    "perceptual_weight",
    "diversity_weight",
    "latent_weight",
    "semantic_slope",
)
