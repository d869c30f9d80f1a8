"""DeepFill as its authors laid it out: every pad a copy, and patches turned into kernels.

The tests compare the model with this; the benchmarks call it the naive form.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.deepfill.attention import NORM_FLOOR, ContextualAttention, free_of_hole, thinned
from models.deepfill.config import AttentionConfig
from models.deepfill.layers import Convolution


class CopyingConvolution(nn.Module):
    """A row of the layout, its padded or doubled input written out, nothing in place."""

    def __init__(self, fast: Convolution) -> None:
        super().__init__()
        assert fast.border == "same"
        self.fast = fast
        self.width = fast.width

    def forward(self, features: Tensor) -> Tensor:
        row = self.fast.row
        if row.rise:
            features = functional.interpolate(features, scale_factor=2.0, mode="nearest")
        reach = row.dilation * (row.kernel - 1)
        if row.stride == 2:
            before, after = (reach - 1) // 2, reach // 2
        else:
            before = after = reach // 2
        features = functional.pad(features, (before, after, before, after))
        drawn = functional.conv2d(
            features, self.fast.weight, self.fast.bias, row.stride, dilation=row.dilation
        )
        if row.activation == "elu":
            return functional.elu(drawn)
        return functional.relu(drawn) if row.activation == "relu" else drawn


class KernelAttention(nn.Module):
    """Contextual attention image by image, its patches the kernels of convolutions."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        assert (config.normalize, config.norm_floor) == ("background", "maximum")
        assert (config.masked, config.overlap, config.fuse, config.wrap) == (
            "zero",
            "fixed",
            True,
            True,
        )
        self.config = config

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        images = zip(features.split(1), mask.split(1), strict=True)
        return torch.cat([self.rebuilt(*image) for image in images])

    def rebuilt(self, features: Tensor, mask: Tensor) -> Tensor:
        channels = features.shape[1]
        places = thinned(features, 2, self.config.downsample)
        height, width = places.shape[2:]
        valid = free_of_hole(mask, features.shape[2:], self.config).view(1, -1, 1, 1)
        patches = functional.unfold(places, 3, padding=1)[0].T.reshape(-1, channels, 3, 3)
        lengths = patches.square().sum(dim=(1, 2, 3), keepdim=True).clamp_min(NORM_FLOOR**2).sqrt()
        scores = functional.conv2d(places, patches / lengths, padding=1)
        scores = supported(scores, height, width)
        weights = torch.softmax(self.config.scale * scores * valid, dim=1) * valid
        windows = functional.unfold(features, 4, stride=2, padding=1)[0].T
        kernels = windows.reshape(-1, channels, 4, 4)
        return functional.conv_transpose2d(weights, kernels, stride=2, padding=1) / 4.0


def supported(scores: Tensor, height: int, width: int) -> Tensor:
    """Add neighbouring matches to [1, N, h, w] by convolving with the identity, twice."""
    count = height * width
    diagonal = torch.eye(3, dtype=scores.dtype)[None, None]
    table = scores.view(1, 1, count, count)
    table = functional.conv2d(table, diagonal, padding=1)
    table = table.view(1, height, width, height, width).permute(0, 2, 1, 4, 3)
    table = functional.conv2d(table.reshape(1, 1, count, count), diagonal, padding=1)
    table = table.view(1, width, height, width, height).permute(0, 2, 1, 4, 3)
    return table.reshape(1, count, height, width)


def naive(generator: nn.Module) -> nn.Module:
    """Return a generator that shares the parameters and computes in the authors' way."""
    shared = {id(parameter): parameter for parameter in generator.parameters()}
    slow = copy.deepcopy(generator, shared)
    replace_in(slow)
    return slow


def replace_in(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, Convolution):
            setattr(module, name, CopyingConvolution(child))
        elif isinstance(child, ContextualAttention):
            setattr(module, name, KernelAttention(child.config))
        else:
            replace_in(child)
