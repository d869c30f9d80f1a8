"""LaMa's generator of fast Fourier convolutions, and its patch discriminator."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.lama.config import LaMaConfig
from infill.models.layers import at_least_float32
from infill.models.masking import hide
from infill.models.padding import BorderedConv2d, bordered
from infill.models.penalised_convolution import PenalisedConv2d

Halves = tuple[Tensor, Tensor]
"""Local and global feature maps of one size."""


class Prediction(NamedTuple):
    """The generator's output."""

    final: Tensor
    """[B, 3, H, W] in [-1, 1]."""


def reflected(wide: int, narrow: int, kernel: int, stride: int = 1) -> BorderedConv2d:
    """Return a convolution without bias that reflects the border."""
    return BorderedConv2d(
        wide, narrow, kernel, stride, kernel // 2, bias=False, padding_mode="reflect"
    )


class FourierUnit(nn.Module):
    """Mix the frequencies of feature maps: every output sees the whole frame (Sec. 2.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)

    def forward(self, features: Tensor) -> Tensor:
        """Transform [B, C, H, W] of any size; in float32 at least, as FFTs know no bfloat16."""
        size = (features.shape[-2], features.shape[-1])
        full = at_least_float32(features)
        with torch.autocast(features.device.type, enabled=False):
            spectrum = torch.view_as_real(torch.fft.rfft2(full, norm="ortho"))
            # Real and imaginary parts side by side: c0.re, c0.im, c1.re, ...
            parts = spectrum.permute(0, 1, 4, 2, 3).flatten(1, 2)
            parts = functional.relu(self.norm(self.mix(parts)), inplace=True)
            pairs = parts.reshape(len(parts), -1, 2, *parts.shape[2:]).permute(0, 1, 3, 4, 2)
            mixed = torch.view_as_complex(pairs.contiguous())
            transformed: Tensor = torch.fft.irfft2(mixed, s=size, norm="ortho")
            return transformed


class SpectralTransform(nn.Module):
    """From global maps to global maps: a Fourier unit between two point-wise convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels // 2)
        self.unit = FourierUnit(channels // 2)
        self.leave = nn.Conv2d(channels // 2, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Transform [B, C, H, W]."""
        entered = functional.relu(self.norm(self.enter(features)))
        left: Tensor = self.leave(entered + self.unit(entered).to(entered.dtype))
        return left


class FourierConvolution(nn.Module):
    """A fast Fourier convolution (FFC): local and global maps, each made of both; then norms."""

    def __init__(self, channels: int, global_channels: int) -> None:
        super().__init__()
        local = channels - global_channels
        self.local_to_local = reflected(local, local, 3)
        self.local_to_global = reflected(local, global_channels, 3)
        self.global_to_local = reflected(global_channels, local, 3)
        self.global_to_global = SpectralTransform(global_channels)
        self.local_norm = nn.BatchNorm2d(local)
        self.global_norm = nn.BatchNorm2d(global_channels)

    def forward(self, halves: Halves) -> Halves:
        """Convolve, normalise and activate both halves."""
        local, wide = halves
        padded = bordered(local, 1, "reflect")
        near = self.local_to_local.convolve(padded) + self.global_to_local(wide)
        far = self.local_to_global.convolve(padded) + self.global_to_global(wide)
        return (
            functional.relu(self.local_norm(near), inplace=True),
            functional.relu(self.global_norm(far), inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two fast Fourier convolutions beside the identity."""

    def __init__(self, channels: int, global_channels: int) -> None:
        super().__init__()
        self.first = FourierConvolution(channels, global_channels)
        self.second = FourierConvolution(channels, global_channels)

    def forward(self, halves: Halves) -> Halves:
        """Refine both halves."""
        near, far = self.second(self.first(halves))
        return halves[0] + near, halves[1] + far


class Halving(nn.Module):
    """A convolution, a norm and a ReLU; of stride 2 but for the entry."""

    def __init__(self, wide: int, narrow: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = reflected(wide, narrow, kernel, stride)
        self.norm = nn.BatchNorm2d(narrow)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, C', H / s, W / s]."""
        return functional.relu(self.norm(self.conv(features)), inplace=True)


class Split(nn.Module):
    """The last halving, whose maps part into local and global ones."""

    def __init__(self, wide: int, channels: int, global_channels: int) -> None:
        super().__init__()
        self.local = Halving(wide, channels - global_channels, 3, 2)
        self.wide = Halving(wide, global_channels, 3, 2)

    def forward(self, features: Tensor) -> Halves:
        """Turn [B, C, H, W] into both halves at half the size."""
        return self.local(features), self.wide(features)


class Doubling(nn.Module):
    """A transposed convolution, a norm and a ReLU."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(wide, narrow, 3, 2, 1, output_padding=1)
        self.norm = nn.BatchNorm2d(narrow)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, C', 2H, 2W]."""
        return functional.relu(self.norm(self.conv(features)), inplace=True)


class Generator(nn.Module):
    """Fill a hole by convolutions that see the whole frame from the first block on."""

    def __init__(self, config: LaMaConfig) -> None:
        super().__init__()
        c = config.channels
        self.size_multiple = config.size_multiple
        self.entry = Halving(4, c, 7, 1)
        self.halvings = nn.Sequential(Halving(c, 2 * c, 3, 2), Halving(2 * c, 4 * c, 3, 2))
        self.split = Split(4 * c, 8 * c, config.global_channels)
        self.blocks = nn.Sequential(
            *(ResidualBlock(8 * c, config.global_channels) for _ in range(config.num_blocks))
        )
        self.doublings = nn.Sequential(
            Doubling(8 * c, 4 * c), Doubling(4 * c, 2 * c), Doubling(2 * c, c)
        )
        self.out = BorderedConv2d(c, 3, 7, padding=3, padding_mode="reflect")

    def forward(self, image: Tensor, mask: Tensor) -> Prediction:
        """Predict the whole frame.

        Args:
            image: [B, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
            mask: [B, 1, H, W], 1 in the hole.

        Raises:
            ValueError: if H or W is not a multiple of 8, or under 16.
        """
        check_size(image, self.size_multiple)
        known = hide((image + 1.0) / 2.0, mask)
        features = self.entry(torch.cat([known, mask.to(image.dtype)], dim=1))
        halves = self.blocks(self.split(self.halvings(features)))
        logits = at_least_float32(self.out(self.doublings(torch.cat(halves, dim=1))))
        return Prediction(torch.sigmoid(logits) * 2.0 - 1.0)


def check_size(image: Tensor, size_multiple: int) -> None:
    """Refuse a frame that cannot be halved three times and reflected.

    Raises:
        ValueError: with the size expected and the one that came.
    """
    height, width = image.shape[-2:]
    if height % size_multiple or width % size_multiple or min(height, width) < 2 * size_multiple:
        raise ValueError(
            f"LaMa takes sides that are multiples of {size_multiple} px from "
            f"{2 * size_multiple} px, not {height} x {width}; "
            "pad with infill.models.architecture.fill"
        )


class Discriminator(nn.Module):
    """A patch discriminator of six convolutions, the middle four normalised over the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [3, *(min(factor, 8) * channels for factor in (1, 2, 4, 8, 16)), 1]
        strides = (2, 2, 2, 2, 1, 1)
        self.convs = nn.ModuleList(
            PenalisedConv2d(wide, narrow, 4, stride, padding=2)
            for wide, narrow, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[2:6])

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Score [B, 3, H, W] in [0, 1], in full precision: a penalty on gradients needs it.

        Returns:
            Logits [B, 1, h, w], about a sixteenth as large; and the map after each activation.
        """
        seen = []
        with torch.autocast(image.device.type, enabled=False):
            features = functional.leaky_relu(self.convs[0](at_least_float32(image)), 0.2)
            seen.append(features)
            for conv, norm in zip(list(self.convs)[1:-1], self.norms, strict=True):
                features = functional.leaky_relu(norm(conv(features)), 0.2)
                seen.append(features)
            logits: Tensor = self.convs[-1](features)
        return logits, tuple(seen)
