"""The numbers of the U-Net: its widths and its loss."""

from dataclasses import dataclass
from typing import ClassVar

from infill.models.config import ModelConfig

SHUFFLE = 4
"""Side of the cells of pixels that become one position of the first maps."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig(ModelConfig):
    """The network that comes with the package, as it was trained."""

    architecture: ClassVar[str] = "unet"

    channels: tuple[int, ...] = (40, 64, 96, 128, 128)
    """Number of feature maps at a quarter of the image's size, and after each halving."""
    num_blocks: int = 1
    """Number of residual blocks at each size, on the way down and on the way up."""

    hole_weight: float = 1.0
    """Weight of the L1 loss inside the hole. Pixels outside it come from the image."""
    discount_rate: float = 0.9
    """Factor of a pixel's weight for each step from the nearest known pixel, as in DeepFill v1.
    Far inside a large hole nearly nothing can be predicted: without a discount
    its noise is most of the gradient, and training does not leave the first guess."""

    learning_rate: float = 1e-3
    """Learning rate before the schedule."""
    beta2: float = 0.99
    """Adam's decay of the running mean of the squared gradient."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming the field.
        """
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise ValueError(f"channels must be two or more positive numbers, not {self.channels}")
        if self.num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, not {self.num_blocks}")
        for name in ("hole_weight", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if not 0 < self.discount_rate <= 1:
            raise ValueError(f"discount_rate must lie in (0, 1], not {self.discount_rate}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")

    @property
    def size_multiple(self) -> int:
        """The cells of pixel shuffling, times one halving for each width after the first."""
        return SHUFFLE << len(self.channels) - 1

    @classmethod
    def tiny(cls) -> "UNetConfig":
        """Return a network of a few thousand parameters, for tests."""
        return cls(channels=(8, 8, 12))
