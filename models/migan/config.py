"""The numbers of MI-GAN: its size, its parallel kernels, its losses."""

import math
from dataclasses import dataclass
from typing import ClassVar

from infill.models.config import ModelConfig

DEEPEST_PX = 4
"""Side of the deepest feature maps of a frame of the size that the network is made for."""


@dataclass(frozen=True, kw_only=True)
class MIGANConfig(ModelConfig):
    """MI-GAN as its authors released it, for 256 px.

    "Released" is the authors' PyTorch code and its configurations.
    """

    architecture: ClassVar[str] = "migan"

    image_size_px: int = 256
    """Side in pixels of the frames that the network is made for, a power of 2: 256 or 512 as
    released. It sets the number of halvings."""
    channel_base: int = 32768
    """Number of feature maps times the side of the maps, at every size."""
    channel_max: int = 512
    """Maximum number of feature maps."""
    num_kernels: int = 9
    """Number of parallel kernels of each convolution, which are summed and normalised: 9 as
    trained, 1 without re-parametrisation. 0 is one kernel as it is, the released form for serving,
    in which the others have been merged."""
    group_size: int = 4
    """Maximum number of images whose deviation the discriminator sees as a feature map."""

    distillation_weight: float = 2.0
    """Weight of the distillation: the L1 distance, inside the hole, to what Co-Mod-GAN adds to the
    image at each size."""
    distillation_start_px: int = 32
    """Smallest side of the maps that are compared."""
    teacher_weights: str | None = None
    """Path of Co-Mod-GAN's state dict for ``image_size_px``, or "random"; training needs it unless
    ``distillation_weight`` is 0."""
    teacher_sha256: str | None = None
    """SHA-256 of that file; None does not check it."""
    image_weight: float = 0.0
    """Weight of the L1 loss inside the hole; 0 as released."""
    adversarial_weight: float = 1.0
    """Weight of the generator's non-saturating loss."""
    penalty_weight: float = 10.0
    """Weight of half the squared gradient of the discriminator at originals (R1)."""
    penalty_every_steps: int = 16
    """Number of steps between two penalties, each of which counts as many times."""
    random_noise: bool = True
    """Whether training adds new noise to the decoder's maps at every step, in place of the constant
    maps of prediction."""
    generates_again: bool = True
    """Whether the discriminator learns from images of the generator just updated, which runs once
    more for them, as released; otherwise from those of the generator's own step. Of a batch in
    parts, all but the last meet the generator before its update."""

    learning_rate: float = 1e-3
    """Learning rate of both networks before the correction for lazy penalties: 4/5 of it reaches
    the generator and 16/17 the discriminator, as released."""
    beta1: float = 0.0
    """Adam's decay of the running mean of the gradient."""
    beta2: float = 0.99
    """Adam's decay of the running mean of the squared gradient."""

    def __post_init__(self) -> None:
        if self.image_size_px < 8 or self.image_size_px & (self.image_size_px - 1):
            raise ValueError(
                f"image_size_px must be a power of 2 from 8 on, not {self.image_size_px}"
            )
        if self.channel_base < self.image_size_px:
            raise ValueError(
                f"channel_base must be at least image_size_px, not {self.channel_base}"
            )
        if self.num_kernels < 0:
            raise ValueError(f"num_kernels must not be negative, not {self.num_kernels}")
        for name in ("channel_max", "group_size", "penalty_every_steps", "distillation_start_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")

    def base_learning_rate(self, role: str) -> float:
        """Return a role's learning rate, corrected as released."""
        return self.learning_rate * (4 / 5 if role == "generator" else 16 / 17)

    @property
    def num_halvings(self) -> int:
        """Halvings of the frame: 6 for 256 px."""
        return int(math.log2(self.image_size_px // DEEPEST_PX))

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature maps at each size, from the frame's to the deepest."""
        sides = (self.image_size_px >> level for level in range(self.num_halvings + 1))
        return tuple(min(self.channel_base // side, self.channel_max) for side in sides)

    @property
    def size_multiple(self) -> int:
        """Multiples of 2 to the halvings: 64 px for a network of 256 px."""
        return int(2**self.num_halvings)

    @classmethod
    def released(cls) -> "MIGANConfig":
        """Return the network of the public file for 256 px: one merged kernel each."""
        return cls(num_kernels=0)

    @classmethod
    def tiny(cls) -> "MIGANConfig":
        """Return networks of a few thousand parameters for tests: constant noise, no teacher."""
        return cls(
            image_size_px=32,
            channel_base=128,
            channel_max=8,
            num_kernels=2,
            group_size=2,
            distillation_weight=0.0,
            random_noise=False,
            generates_again=False,
        )


_NOT_NEGATIVE = ("distillation_weight", "image_weight", "adversarial_weight", "penalty_weight")
