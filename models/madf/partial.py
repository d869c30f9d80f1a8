"""The U-Net of partial convolutions: PConv in Table II, the baseline without a dynamic filter.

Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", ECCV 2018, seven
levels wide as MADF's decoders. A window's sum over known inputs is scaled by how many are known.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_least_float32
from infill.models.madf.config import MADFConfig
from infill.models.madf.networks import (
    SLOPE,
    NormalisedColours,
    Prediction,
    check_size,
    entered,
    full_precision,
)

SMALLEST_COUNT = 1e-3
"""Below the average count of a window with one known input."""


class Partly(NamedTuple):
    """Features, and where they rest on something known."""

    features: Tensor
    """[B, C, H, W]; 0 where unknown."""
    known: Tensor
    """[B, 1, H, W], 1 or 0, alike for all channels."""


class PartialConv2d(nn.Module):
    """A convolution over known inputs only, of one map or of several side by side.

    out = (W * x) * (size of the window / number of known inputs in it) + b, and 0 where none is
    known. Zeros beyond the border count as unknown. All channels of one map are known alike, so
    the known are counted in one channel per map.
    """

    def __init__(
        self, widths: tuple[int, ...], out_channels: int, kernel_size: int, stride: int, bias: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            sum(widths), out_channels, kernel_size, stride, kernel_size // 2, bias=bias
        )
        self.widths = widths
        self.kernel_size, self.stride, self.padding = kernel_size, stride, kernel_size // 2

    def forward(self, *maps: Partly) -> Partly:
        """Convolve maps of one size; the output is known where any input was."""
        features = torch.cat([part.features for part in maps], dim=1)
        channels = [part.known * width for part, width in zip(maps, self.widths, strict=True)]
        # Pooling stays in float32 under autocast; a convolution would round the counts.
        average = functional.avg_pool2d(
            torch.cat(channels, dim=1).sum(dim=1, keepdim=True),
            self.kernel_size,
            self.stride,
            self.padding,
        )
        found = (average > 0).to(average.dtype)
        share = found * sum(self.widths) / average.clamp(min=SMALLEST_COUNT)
        out = share * functional.conv2d(
            features, self.conv.weight, stride=self.stride, padding=self.padding
        )
        if self.conv.bias is not None:
            out = out + self.conv.bias.view(1, -1, 1, 1) * found
        return Partly(out, found)


class PartialBlock(nn.Module):
    """A partial convolution, batch norm and a (leaky) ReLU."""

    def __init__(
        self,
        widths: tuple[int, ...],
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        normalised: bool = True,
        slope: float = SLOPE,
    ) -> None:
        super().__init__()
        self.conv = PartialConv2d(widths, out_channels, kernel_size, stride, bias=False)
        self.norm = nn.BatchNorm2d(out_channels) if normalised else nn.Identity()
        self.slope = slope

    def forward(self, *maps: Partly) -> Partly:
        """Turn maps of one size into one map."""
        features, known = self.conv(*maps)
        # The norm's shift would make something of nothing where no input was known.
        return Partly(functional.leaky_relu(self.norm(features), self.slope) * known, known)


class PartialUNet(nn.Module):
    """Fill a hole from its border inwards, level by level."""

    def __init__(self, config: MADFConfig) -> None:
        super().__init__()
        self.size_multiple = config.size_multiple
        self.colours = NormalisedColours()
        widths = config.skip_widths
        kernel_sizes = (7, 5, 5, *[3] * config.levels)
        self.encoder = nn.ModuleList(
            PartialBlock((narrow,), wide, kernel_sizes[level], 2, normalised=level > 0, slope=0.0)
            for level, (narrow, wide) in enumerate(zip((3, *widths[:-1]), widths, strict=True))
        )
        self.decoder = nn.ModuleList(
            PartialBlock((wide, narrow), narrow)
            for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.last = PartialConv2d((widths[0], 3), 3, 3, 1, bias=True)

    def forward(self, image: Tensor, mask: Tensor) -> Prediction:
        """Predict the whole frame; arguments, result and errors as MADF's generator."""
        check_size(image, self.size_multiple)
        skips = [Partly(*entered(self.colours, image, mask))]
        for block in self.encoder:
            skips.append(block(skips[-1]))
        deeper = skips.pop()
        for block in self.decoder:
            deeper = block(doubled(deeper), skips.pop())
        with full_precision(deeper.features.device):
            deeper = doubled(Partly(at_least_float32(deeper.features), deeper.known))
            output = self.last(deeper, skips.pop()).features
        return Prediction(self.colours.undone(output), (output,))


def doubled(part: Partly) -> Partly:
    """Repeat every position 2 x 2."""
    return Partly(
        functional.interpolate(part.features, scale_factor=2.0, mode="nearest"),
        functional.interpolate(part.known, scale_factor=2.0, mode="nearest"),
    )
