"""MI-GAN's layers: convolutions of parallel kernels, depthwise separable, between binomial filters.

The arithmetic is that of StyleGAN's layers: activations keep the size of the features, and kernels
are normalised.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_least_float32
from infill.models.penalised_convolution import Geometry, convolve

SLOPE = 0.2
GAIN = math.sqrt(2.0)
LIMIT = 256.0
"""The activation: its slope below zero, its gain, and the largest value it returns."""
TAPS = (1.0, 3.0, 3.0, 1.0)
"""The binomial filter before a halving and after a doubling."""
EPSILON = 1e-8
HALVING = Geometry(stride=(2, 2), padding=(1, 1))


def activate(features: Tensor, gain: float = 1.0) -> Tensor:
    """Apply the leaky ReLU of StyleGAN, times ``gain``, within its limits."""
    gained = functional.leaky_relu(features, SLOPE) * (GAIN * gain)
    return gained.clamp(-LIMIT * gain, LIMIT * gain)


def binomial() -> Tensor:
    """Return the filter of both directions, [4, 4], of sum 1."""
    taps = torch.tensor(TAPS) / sum(TAPS)
    return taps[:, None] * taps


class Resample(nn.Module):
    """Halve or double maps by the binomial filter; outside the frame they are 0."""

    window: Tensor

    def __init__(self, doubles: bool, penalised: bool = False) -> None:
        """Build the filter; ``penalised`` if a loss has slopes by the maps that are halved."""
        super().__init__()
        self.doubles, self.penalised = doubles, penalised
        # A doubling puts zeros between the values, whose sum the filter makes up for.
        window = binomial() * (4.0 if doubles else 1.0)
        self.register_buffer("window", window, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into half or twice the size."""
        channels = features.shape[1]
        kernel = self.window.to(features.dtype).expand(channels, 1, 4, 4)
        if self.penalised and not self.doubles:
            return convolve(features, kernel, None, HALVING._replace(groups=channels))
        if self.doubles:
            return functional.conv_transpose2d(
                features, kernel, stride=2, padding=1, groups=channels
            )
        return functional.conv2d(features, kernel, stride=2, padding=1, groups=channels)


class NormalisedConv(nn.Module):
    """A convolution whose kernel is a normalised sum of parallel ones, or one kernel as it is."""

    def __init__(
        self,
        wide: int,
        narrow: int,
        kernel: int,
        num_kernels: int,
        groups: int = 1,
        bias: bool = True,
        penalised: bool = False,
    ) -> None:
        """Build the kernels from normal random values.

        Args:
            wide: feature maps read.
            narrow: feature maps made.
            kernel: side of the kernel, odd.
            num_kernels: parallel kernels; 0 is one that is not normalised.
            groups: groups of feature maps.
            bias: whether there is one.
            penalised: whether a loss has slopes by the maps.
        """
        super().__init__()
        self.groups, self.padding, self.penalised = groups, kernel // 2, penalised
        shape = (narrow, wide // groups, kernel, kernel)
        if num_kernels:
            self.kernels = nn.Parameter(torch.randn(num_kernels, *shape))
        else:
            self.weight = nn.Parameter(torch.randn(shape) / math.sqrt(math.prod(shape[1:])))
        self.bias = nn.Parameter(torch.zeros(narrow)) if bias else None
        self.num_kernels = num_kernels

    def merged(self) -> Tensor:
        """Return the one kernel that computes the same: every filter has a norm of 1."""
        if not self.num_kernels:
            return self.weight
        return merge(self.kernels)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve [B, C, H, W] to the same size."""
        weight = self.merged()
        if self.penalised:
            sides = (self.padding, self.padding)
            geometry = Geometry(padding=sides, groups=self.groups)
            return convolve(features, weight, self.bias, geometry)
        return functional.conv2d(
            features, weight, self.bias, padding=self.padding, groups=self.groups
        )


def merge(kernels: Tensor) -> Tensor:
    """Return one kernel [C', C, k, k] for parallel ones [n, C', C, k, k]: every norm is 1."""
    summed = at_least_float32(kernels).sum(0) / math.sqrt(len(kernels))
    norms = summed.square().sum(dim=(1, 2, 3), keepdim=True)
    return (summed * torch.rsqrt(norms + EPSILON)).to(kernels.dtype)


class SeparableConv(nn.Module):
    """A depthwise convolution and a point-wise one, each activated; perhaps another size, noise."""

    noise: Tensor

    def __init__(
        self,
        wide: int,
        narrow: int,
        num_kernels: int,
        resample: str = "",
        noise_px: int = 0,
        penalised: bool = False,
    ) -> None:
        """Build both convolutions.

        Args:
            wide: feature maps read.
            narrow: feature maps made.
            num_kernels: parallel kernels of each convolution.
            resample: "half" filters and halves before the point-wise convolution, "double" doubles
                and filters after it.
            noise_px: side of the constant map of noise; 0 has none.
            penalised: whether a loss has slopes by the maps.
        """
        super().__init__()
        self.depth = NormalisedConv(wide, wide, 3, num_kernels, groups=wide, penalised=penalised)
        self.point = NormalisedConv(wide, narrow, 1, num_kernels, bias=False, penalised=penalised)
        self.shrink = Resample(False, penalised) if resample == "half" else None
        self.enlarge = Resample(True, penalised) if resample == "double" else None
        self.strength = nn.Parameter(torch.zeros(())) if noise_px else None
        if noise_px:
            self.register_buffer("noise", torch.randn(noise_px, noise_px))

    def forward(self, features: Tensor, gain: float = 1.0, noise: Tensor | None = None) -> Tensor:
        """Convolve [B, C, H, W].

        Args:
            features: [B, C, H, W].
            gain: of both activations.
            noise: [B, 1, h, w] at the size of the output, in place of the constant map.
        """
        features = activate(self.depth(features), gain)
        if self.shrink is not None:
            features = self.shrink(features)
        features = self.point(features)
        if self.enlarge is not None:
            features = self.enlarge(features)
        if self.strength is not None:
            added = tiled(self.noise, features) if noise is None else noise
            features = features + (added * self.strength).to(features.dtype)
        return activate(features, gain)


def tiled(noise: Tensor, features: Tensor) -> Tensor:
    """Return a map of noise [h, w] at the size of [B, C, H, W]: repeated, and cut."""
    height, width = features.shape[-2:]
    if noise.shape == (height, width):
        return noise
    times = (-(-height // noise.shape[0]), -(-width // noise.shape[1]))
    return noise.repeat(times)[:height, :width]
