"""The blocks of SPN: region normalisation, SPADE and the residual blocks around them.

Parameters are kept as the authors' layers have them. Where two convolutions read the same tensor
they run as one: their weights are concatenated on the way, which is exact and costs less than
reading the tensor twice.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_least_float32, normalise_each
from infill.models.padding import BorderedConv2d, bordered

EPSILON = 1e-5
"""Added to every variance, as in PyTorch's instance normalisation."""


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias


def reflected(
    in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1
) -> nn.Conv2d:
    """Return a convolution that keeps the size by reflecting the border."""
    return BorderedConv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        padding_mode="reflect",
    )


def normalise_regions(
    features: Tensor,
    region: Tensor,
    gain_inside: Tensor | float = 1.0,
    gain_outside: Tensor | float = 1.0,
) -> Tensor:
    """Normalise the pixels inside a region and those outside apart, per image and channel.

    The released code fills the rest with the region's mean and takes an instance norm of the
    whole map; this is the same in closed form, from which the odd scaling of epsilon follows.

    Args:
        features: [B, C, H, W], at least float32.
        region: [B, 1, H, W] of bool.
        gain_inside: factor for the region, a number or [C, 1, 1].
        gain_outside: factor for the rest.

    Returns:
        [B, C, H, W]; with gains of 1 both parts have mean 0 and variance about 1.
    """
    inside = region.to(features.dtype)
    outside = 1.0 - inside
    areas = [part.sum(dim=(2, 3), keepdim=True).clamp(min=1.0) for part in (inside, outside)]
    means = [
        (features * part).sum(dim=(2, 3), keepdim=True) / area
        for part, area in zip((inside, outside), areas, strict=True)
    ]
    centred = features - torch.where(region, means[0], means[1])
    squares = centred.square()
    pixels = features.shape[2] * features.shape[3]
    scales = [
        torch.rsqrt((squares * part).sum(dim=(2, 3), keepdim=True) / area + EPSILON * pixels / area)
        for part, area in zip((inside, outside), areas, strict=True)
    ]
    return centred * torch.where(region, scales[0] * gain_inside, scales[1] * gain_outside)


class RegionNorm(nn.Module):
    """Region normalisation with a gain and a shift for each of hole and known part.

    Both shifts are added at every pixel, as in the released code, so one of them is redundant.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hole_gain = nn.Parameter(torch.zeros(channels))
        self.hole_shift = nn.Parameter(torch.zeros(channels))
        self.known_gain = nn.Parameter(torch.zeros(channels))
        self.known_shift = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor, hole: Tensor) -> Tensor:
        """Normalise [B, C, H, W] by the bool ``hole`` [B, 1, H, W]."""
        normalised = normalise_regions(
            at_least_float32(features),
            hole,
            1.0 + self.hole_gain[:, None, None],
            1.0 + self.known_gain[:, None, None],
        )
        return normalised + (self.hole_shift + self.known_shift)[:, None, None]


class LearnedRegionNorm(nn.Module):
    """Region normalisation whose region, gain and shift come from the features (SPL's decoder)."""

    threshold = 0.8
    """Attention from which a pixel counts as inside the region."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.gain = nn.Conv2d(1, 1, 7, padding=3)
        self.shift = nn.Conv2d(1, 1, 7, padding=3)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise [B, C, H, W] by where its own channel mean and maximum call for it."""
        features = at_least_float32(features)
        seen = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], dim=1)
        attention = torch.sigmoid(self.attention(seen))
        normalised = normalise_regions(features, attention.detach() >= self.threshold)
        gain, shift = self.gain(attention), self.shift(attention)
        return torch.addcmul(shift, normalised, 1.0 + gain)


class Spade(nn.Module):
    """Gain and shift per pixel, computed from a prior (Eq. 8, with the released 1 + gain).

    The caller normalises the features, as two SPADEs may read the same ones.
    """

    def __init__(self, channels: int, prior_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(prior_channels, hidden_channels, 3, padding=1)
        self.gain = nn.Conv2d(hidden_channels, channels, 3, padding=1)
        self.shift = nn.Conv2d(hidden_channels, channels, 3, padding=1)

    def forward(self, normalised: Tensor, prior: Tensor) -> Tensor:
        """Modulate normalised features by a prior [B, C_prior, H, W].

        Args:
            normalised: [B, C, H, W], or [B, C, H/2, W/2], of which every pixel is repeated.
            prior: the prior.

        Returns:
            [B, C, H, W].
        """
        hidden = functional.relu(self.hidden(prior), inplace=True)
        # The 1 goes into the bias, which costs nothing.
        bias = 1.0 + _bias(self.gain)
        gain = functional.conv2d(hidden, self.gain.weight, bias, padding=self.gain.padding)
        modulated: Tensor = self.shift(hidden)
        del hidden
        if normalised.shape != gain.shape:
            normalised = doubled(normalised)
        # In place, since no backward pass needs the convolution's output.
        return modulated.addcmul_(normalised.to(gain.dtype), gain)


class SpadeResidualBlock(nn.Module):
    """Two modulated convolutions beside the identity, the first dilated by 2."""

    def __init__(self, channels: int, prior_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.spade1 = Spade(channels, prior_channels, hidden_channels)
        self.conv1 = reflected(channels, channels, 3, dilation=2)
        self.spade2 = Spade(channels, prior_channels, hidden_channels)
        self.conv2 = reflected(channels, channels, 3)

    def forward(self, features: Tensor, prior: Tensor) -> Tensor:
        """Refine features [B, C, H, W] by a prior [B, C_prior, H, W]."""
        main = self.spade1(normalise_each(features), prior)
        main = self.conv1(functional.relu(main, inplace=True))
        main = self.spade2(normalise_each(main), prior)
        main = functional.relu(main, inplace=True)
        refined: Tensor = features + self.conv2(main)
        return refined


class SpadeRisingBlock(nn.Module):
    """Double the size by repetition, then modulate and narrow, in two branches."""

    def __init__(
        self, in_channels: int, out_channels: int, prior_channels: int, hidden_channels: int
    ) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.spade1 = Spade(in_channels, prior_channels, hidden_channels)
        self.conv1 = nn.Conv2d(in_channels, middle, 3, padding=1)
        self.spade2 = Spade(middle, prior_channels, hidden_channels)
        self.conv2 = nn.Conv2d(middle, out_channels, 3, padding=1)
        self.shortcut_spade = Spade(in_channels, prior_channels, hidden_channels)
        self.shortcut_conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, features: Tensor, prior: Tensor) -> Tensor:
        """Turn features [B, C_in, H/2, W/2] into [B, C_out, H, W] by a prior of that size."""
        # Repetition keeps mean and variance, so the quarter of the pixels is normalised.
        normalised = normalise_each(features)
        # In place, a leaky ReLU keeps its result alone for the backward pass.
        main = self.spade1(normalised, prior)
        main = self.conv1(functional.leaky_relu(main, 0.2, inplace=True))
        main = self.spade2(normalise_each(main), prior)
        main = self.conv2(functional.leaky_relu(main, 0.2, inplace=True))
        shortcut = self.shortcut_spade(normalised, prior)
        risen: Tensor = main.add_(self.shortcut_conv(shortcut))
        return risen


class ResidualBlock(nn.Module):
    """Two reflected convolutions beside the identity; no normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = reflected(channels, channels, 3)
        self.conv2 = reflected(channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Refine [B, C, H, W]."""
        main = functional.relu(self.conv1(features), inplace=True)
        refined: Tensor = features + self.conv2(main)
        return refined


class MergingBlock(nn.Module):
    """A residual block from more channels to fewer, with a convolution as shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = reflected(in_channels, out_channels, 3)
        self.conv2 = reflected(out_channels, out_channels, 3)
        self.shortcut = reflected(in_channels, out_channels, 3)

    def forward(self, *parts: Tensor) -> Tensor:
        """Turn maps [B, C, H, W], whose C are C_in together, into [B, C_out, H, W]."""
        main, shortcut = torch.chunk(self._both(parts), 2, dim=1)
        merged: Tensor = self.conv2(functional.relu(main)).add_(shortcut)
        return merged

    def _both(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Return the first layer of both branches, [B, 2 C_out, H, W].

        The parts are convolved one by one and summed: no tensor of them all.
        """
        branches = [self.conv1, self.shortcut]
        weight = torch.cat([branch.weight for branch in branches])
        bias: Tensor | None = torch.cat([_bias(branch) for branch in branches])
        sums: Tensor | None = None
        widths = [part.shape[1] for part in parts]
        for part, reading in zip(parts, torch.split(weight, widths, dim=1), strict=True):
            read = functional.conv2d(bordered(part, 1, "reflect"), reading, bias)
            sums, bias = read if sums is None else sums.add_(read), None
        assert sums is not None
        return sums


class DenseBlock(nn.Module):
    """A residual dense block: every layer reads the input and all layers before it.

    Nothing is concatenated as it grows: the input is convolved once for all layers, and each
    layer's output once for all later ones, into the sums that those layers take. Convolution is
    linear, so the sums equal the result of the concatenation.
    """

    def __init__(self, channels: int, growth: int, num_layers: int) -> None:
        super().__init__()
        self.channels, self.growth = channels, growth
        self.layers = nn.ModuleList(
            nn.Conv2d(channels + growth * index, growth, 3, padding=1)
            for index in range(num_layers)
        )
        self.merge = nn.Conv2d(channels + growth * num_layers, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Refine [B, C, H, W]."""
        layers = [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]
        weights: list[Tensor] = [layer.weight for layer in layers]
        biases = torch.cat([_bias(layer) for layer in layers])
        sums = functional.conv2d(features, self._reading(weights, -1), biases, padding=1)
        grown = []
        for index in range(len(weights)):
            layer = functional.relu(sums[:, : self.growth])
            grown.append(layer)
            if later := weights[index + 1 :]:
                added = functional.conv2d(layer, self._reading(later, index), padding=1)
                sums = sums[:, self.growth :] + added
        start = self.channels
        merged = functional.conv2d(features, self.merge.weight[:, :start], self.merge.bias)
        merged = merged + functional.conv2d(torch.cat(grown, 1), self.merge.weight[:, start:])
        return features + merged

    def _reading(self, weights: list[Tensor], index: int) -> Tensor:
        """Return the part of some layers' weights that reads layer ``index``; -1 is the input."""
        if index < 0:
            return torch.cat([weight[:, : self.channels] for weight in weights])
        start = self.channels + self.growth * index
        return torch.cat([weight[:, start : start + self.growth] for weight in weights])


def doubled(features: Tensor) -> Tensor:
    """Repeat every pixel into a 2 x 2 square: [B, C, H, W] to [B, C, 2H, 2W]."""
    return functional.interpolate(features, scale_factor=2.0, mode="nearest")
