"""Convolutions with TensorFlow's padding, and doubling by repetition folded into the next one."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.deepfill.layout import Row, Rows

Padding = Literal["same", "mirror", "centred"]


class Convolution(nn.Conv2d):
    """One row of the layout: perhaps doubled, padded, convolved, activated."""

    def __init__(self, in_channels: int, row: Row, padding: Padding) -> None:
        """Start from Glorot's uniform weights and zero biases, as the authors' framework does."""
        super().__init__(
            in_channels, row.width, row.kernel, stride=row.stride, dilation=row.dilation
        )
        self.row = row
        self.border = padding
        glorot(self)

    @property
    def width(self) -> int:
        """Channels after the activation."""
        return self.row.width

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, width, H', W']."""
        return self.activate(self.convolve(features))

    def activate(self, features: Tensor) -> Tensor:
        """Apply ELU, ReLU or nothing; in place, so that only the result is kept for backward."""
        if self.row.activation == "elu":
            return functional.elu(features, inplace=True)
        if self.row.activation == "relu":
            return functional.relu(features, inplace=True)
        return features

    def convolve(self, features: Tensor) -> Tensor:
        """Pad and convolve; the result is H, 2H or H / 2 high, as the row says."""
        reach = self.row.dilation * (self.row.kernel - 1) // 2
        if self.row.rise:
            return self._doubled(features)
        if self.border == "mirror":
            return self._conv_forward_padded(mirrored(features, reach), self.weight, 0)
        if self.row.stride == 2 and self.border == "same":
            # Zeros fall on the far side first. One more row and column of zeros in the kernel has
            # the effect of a padded copy of the map without keeping it for the backward pass.
            return self._conv_forward_padded(features, functional.pad(self.weight, (1, 0, 1, 0)), 1)
        return self._conv_forward_padded(features, self.weight, reach)

    def _conv_forward_padded(self, features: Tensor, weight: Tensor, padding: int) -> Tensor:
        return functional.conv2d(
            features, weight, self.bias, self.stride, padding, self.dilation, groups=1
        )

    def _doubled(self, features: Tensor) -> Tensor:
        """Double the map and convolve it, at 4/9 of the arithmetic and without the doubled map.

        A 3 x 3 kernel on a map of repeated pixels meets 2 x 2 different ones; which, depends on
        the parity of row and column: four kernels, made of sums of this one's entries.
        """
        weight, padding = parity_kernels(self.weight), 1
        if self.border == "mirror":
            features, padding = mirrored(features, 1), 0
        bias = None if self.bias is None else self.bias.repeat(4)
        return interleaved(functional.conv2d(features, weight, bias, padding=padding))


def parity_kernels(weight: Tensor) -> Tensor:
    """Sum a [C, D, 3, 3] kernel into [4C, D, 2, 2]: even and odd rows, then columns, outermost."""
    first, middle, last = weight.unbind(2)
    rows = torch.stack(
        [torch.stack([first, middle + last], 2), torch.stack([first + middle, last], 2)]
    )
    first, middle, last = rows.unbind(-1)
    kernels = torch.stack(
        [torch.stack([first, middle + last], -1), torch.stack([first + middle, last], -1)], 1
    )
    return kernels.flatten(0, 2)


def interleaved(parities: Tensor) -> Tensor:
    """Lay out [B, 4C, h + 1, w + 1], one map per parity, as one map [B, C, 2h, 2w]."""
    if not torch.is_grad_enabled():
        return _placed(parities)
    last = parities.is_contiguous(memory_format=torch.channels_last)
    if last:
        parities = parities.permute(0, 2, 3, 1)
    across = -2 if last else -1  # the axis of columns
    height, width = parities.shape[across - 1] - 1, parities.shape[across] - 1
    maps = parities.chunk(4, -1 if last else 1)
    lines = []
    for down in (0, 1):
        pair = [
            maps[2 * down + right].narrow(across - 1, down, height).narrow(across, right, width)
            for right in (0, 1)
        ]
        lines.append(torch.stack(pair, across if last else 4))
    # [B, h, 2, w, 2, C] or [B, C, h, 2, w, 2]
    doubled = torch.stack(lines, 2 if last else 3)
    if last:
        return doubled.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return doubled.flatten(4, 5).flatten(2, 3)


def _placed(parities: Tensor) -> Tensor:
    """Do the same with one copy; stacks cost two, but their gradient none."""
    batch, channels, height, width = parities.shape
    size = (batch, channels // 4, 2 * (height - 1), 2 * (width - 1))
    last = parities.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    doubled = torch.empty(size, dtype=parities.dtype, device=parities.device, memory_format=layout)
    for index, part in enumerate(parities.chunk(4, 1)):
        down, right = divmod(index, 2)
        windows = part[:, :, down : down + height - 1, right : right + width - 1]
        doubled[:, :, down::2, right::2] = windows
    return doubled


def mirrored(features: Tensor, reach: int) -> Tensor:
    """Pad every side by mirroring, the edge itself included.

    Raises:
        ValueError: if the map is smaller than ``reach``.
    """
    if reach > min(features.shape[-2:]):
        raise ValueError(
            f"padding 'mirror' needs maps of at least {reach} x {reach} at quarter size, "
            f"got {features.shape[-2]} x {features.shape[-1]}: use larger images or fewer dilations"
        )
    for axis in (-2, -1):
        size = features.shape[axis]
        before = features.narrow(axis, 0, reach).flip(axis)
        after = features.narrow(axis, size - reach, reach).flip(axis)
        features = torch.cat([before, features, after], axis)
    return features


def pad_for_stride_2(features: Tensor, kernel: int) -> Tensor:
    """Add the zeros with which TensorFlow's SAME halves a map, rounding up; odd sizes too."""
    height, width = features.shape[-2:]
    after = (kernel - 1) // 2
    left, top = (kernel - 2 + width % 2) // 2, (kernel - 2 + height % 2) // 2
    return functional.pad(features, (left, after, top, after))


def glorot(layer: nn.Conv2d | nn.Linear) -> None:
    """Sample uniform weights within sqrt(6 / (fan in + fan out)) and set biases to zero."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Chain(nn.Sequential):
    """Convolutions in a row, called by the names of their rows; ``width`` is the last one's."""

    def __init__(
        self, in_channels: int, rows: Rows, layer: Callable[[int, Row], Convolution]
    ) -> None:
        super().__init__()
        self.width = in_channels
        for row in rows:
            convolution = layer(self.width, row)
            self.add_module(row.name, convolution)
            self.width = convolution.width
