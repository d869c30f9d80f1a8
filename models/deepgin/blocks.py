"""The layers of DeepGIN: replicated borders, pyramids of dilations, self-attention."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models import padding
from infill.models.layers import at_least_float32

LEAK = 0.2
"""Negative slope of every activation outside residual blocks."""


class Convolution(nn.Conv2d):
    """A convolution without padding, after :func:`bordered`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, dilation=dilation)
        self.reach = dilation * (kernel - 1) // 2
        """Pixels of border it needs on each side."""


def framed(conv: nn.Module, features: Tensor) -> Tensor:
    """Convolve a map [B, C, H, W], its border replicated first: [B, C', H / s, W / s]."""
    assert isinstance(conv, Convolution)
    convolved: Tensor = conv(bordered(features, conv.reach))
    return convolved


def bordered(features: Tensor, reach: int) -> Tensor:
    """Repeat the outermost pixels ``reach`` times on every side."""
    return padding.bordered(features, reach, "replicate")


def leaky(features: Tensor) -> Tensor:
    """Activate in place, so that the backward pass keeps the result alone."""
    return functional.leaky_relu(features, LEAK, inplace=True)


class ResidualBlock(nn.Module):
    """Convolutions of several dilations side by side, fused by another, beside the identity.

    With one dilation of 1 it is the standard block, with one of 2 the dilated one (Table 1).
    """

    def __init__(self, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            Convolution(channels, channels // len(rates), 3, dilation=rate) for rate in rates
        )
        self.fuse = Convolution(channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Refine [B, C, H, W]."""
        branches = [branch for branch in self.branches if isinstance(branch, Convolution)]
        height, width = features.shape[-2:]
        widest = max(branch.reach for branch in branches)
        # Every branch reads the part it needs of one border, as wide as the widest needs it.
        padded = bordered(features, widest)
        outputs = []
        for branch in branches:
            inset = widest - branch.reach
            rows = padded.narrow(2, inset, height + 2 * branch.reach)
            outputs.append(branch(rows.narrow(3, inset, width + 2 * branch.reach)))
        merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        # Activated with its border, so that only the next convolution's input is kept.
        activated = functional.relu(bordered(merged, self.fuse.reach), inplace=True)
        refined: Tensor = features + self.fuse(activated)
        return refined


class SelfAttention(nn.Module):
    """Every place looks at all places of its map (Sec. 4; non-local, embedded Gaussian).

    Logits are not divided by the root of their width, as released.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Refine [B, C, H, W]; logits and softmax in float32 at least."""
        query, key, value = (
            # Contiguous rows, without which no fused kernel would be taken.
            at_least_float32(conv(features)).flatten(2).mT.contiguous()[:, None]
            for conv in (self.theta, self.phi, self.g)
        )
        with torch.autocast(features.device.type, enabled=False):
            seen = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        height, width = features.shape[-2:]
        seen = seen[:, 0].mT.reshape(len(seen), -1, height, width)
        refined: Tensor = features + self.out(seen.to(features.dtype))
        return refined
