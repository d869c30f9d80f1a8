"""MI-GAN's discriminator: residual blocks of separable convolutions, after StyleGAN's."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_least_float32
from infill.models.migan.config import DEEPEST_PX, MIGANConfig
from infill.models.migan.layers import NormalisedConv, Resample, SeparableConv, activate
from infill.models.migan.networks import Linear

HALF = math.sqrt(0.5)
"""What both branches of a block are multiplied by, so that their sum keeps its size."""


class Block(nn.Module):
    """Two separable convolutions beside a point-wise one, both of half the size."""

    def __init__(self, wide: int, narrow: int, num_kernels: int) -> None:
        super().__init__()
        self.first = SeparableConv(wide, wide, num_kernels, penalised=True)
        self.second = SeparableConv(wide, narrow, num_kernels, "half", penalised=True)
        self.shrink = Resample(doubles=False, penalised=True)
        self.skip = NormalisedConv(wide, narrow, 1, num_kernels, bias=False, penalised=True)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, C', H / 2, W / 2]."""
        beside: Tensor = self.skip(self.shrink(features)) * HALF
        convolved: Tensor = self.second(self.first(features), gain=HALF)
        return convolved + beside


class Discriminator(nn.Module):
    """Score a whole image under its mask."""

    def __init__(self, config: MIGANConfig) -> None:
        super().__init__()
        # Merged kernels are for serving: a discriminator is trained.
        widths, count = config.widths, max(config.num_kernels, 1)
        self.group_size = config.group_size
        self.entry = NormalisedConv(4, widths[0], 1, count, penalised=True)
        self.blocks = nn.ModuleList(
            Block(wide, narrow, count) for wide, narrow in zip(widths[:-1], widths[1:], strict=True)
        )
        deepest = widths[-1]
        self.last = SeparableConv(deepest + 1, deepest, count, penalised=True)
        self.dense = Linear(deepest * DEEPEST_PX**2, deepest)
        self.out = Linear(deepest, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of originals, [B, 1], in full precision.

        Args:
            images: [B, 4, H, W]: the mask less a half, and colours. Maps of another size than 4
                px are averaged to it, so that frames may have any size.
        """
        with torch.autocast(images.device.type, enabled=False):
            features = activate(self.entry(at_least_float32(images)))
            for block in self.blocks:
                features = block(features)
            features = self.last(with_deviation(features, self.group_size))
            features = functional.adaptive_avg_pool2d(features, DEEPEST_PX)
            logits: Tensor = self.out(activate(self.dense(features.flatten(1))))
        return logits


def with_deviation(features: Tensor, group_size: int) -> Tensor:
    """Append how much the images of a group differ, as one more map.

    Args:
        features: [B, C, H, W].
        group_size: maximum number of images of a group; the greatest that divides both is taken.
            With two groups every second image is of one.

    Returns:
        [B, C + 1, H, W].
    """
    count = math.gcd(len(features), group_size)
    grouped = features.reshape(count, -1, *features.shape[1:])
    deviation = (grouped.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    level = deviation.repeat(count)[:, None, None, None]
    return torch.cat([features, level.expand_as(features[:, :1])], dim=1)
