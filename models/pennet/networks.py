"""PEN-Net's generator and discriminator (Fig. 2, with the released layers)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import SpectralConv2d, at_least_float32, doubled
from infill.models.pennet.attention import AttentionTransfer, PatchSwap, Unfilled
from infill.models.pennet.config import LEVELS, PENNetConfig

INITIAL_DEVIATION = 0.02
"""Standard deviation of every initial weight of both networks."""


class Prediction(NamedTuple):
    """The generator's output, at full size and at every level of its decoder."""

    final: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    pyramid: tuple[Tensor, ...]
    """Five images in [-1, 1], coarsest first: [B, 3, H/32, W/32] to [B, 3, H/2, W/2]."""


class Generator(nn.Module):
    """A U-Net whose skip connections are filled from deep to shallow."""

    def __init__(self, config: PENNetConfig) -> None:
        super().__init__()
        self.size_multiple = config.size_multiple
        widths = config.widths
        self.encoder = nn.ModuleList(
            nn.Conv2d(inward, outward, 3, stride=2, padding=1)
            for inward, outward in zip((4, *widths[:-1]), widths, strict=True)
        )
        # Deepest first from here on, as they are used.
        levels = range(LEVELS, 0, -1)
        self.fillers = nn.ModuleList(build_filler(config, level) for level in levels)
        merged = [2 * widths[level - 1] for level in levels]
        self.decoder = nn.ModuleList(
            nn.Conv2d(inward, outward // 2, 3, padding=1)
            for inward, outward in zip((widths[-1], *merged[:-1]), merged, strict=True)
        )
        self.heads = nn.ModuleList(nn.Conv2d(wide, 3, 1) for wide in merged)
        self.last = nn.Conv2d(merged[-1], widths[0], 3, padding=1)
        self.out = nn.Conv2d(widths[0], 3, 3, padding=1)
        self.apply(initialise)

    def forward(self, image: Tensor, mask: Tensor) -> Prediction:
        """Fill the hole from a pyramid of features, deepest level first (Sec. 3.1 and 3.2).

        Args:
            image: [B, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
            mask: [B, 1, H, W], 1 in the hole.

        Returns:
            ``final``, [B, 3, H, W] in [-1, 1], and ``pyramid``, coarsest level first.

        Raises:
            ValueError: if H or W is not a multiple of 64, as the encoder halves six times.
        """
        deepest, maps = self.encode(image, mask)
        features, deeper, pyramid = deepest, deepest, []
        blocks = zip(self.fillers, self.decoder, self.heads, maps, strict=True)
        for filler, conv, head, shallow in blocks:
            deeper = filler(shallow, deeper, mask)
            features = functional.relu(conv(doubled(features)))
            features = torch.cat([features, deeper], dim=1)
            pyramid.append(to_image(head(features)))
        features = functional.relu(self.last(doubled(features)))
        return Prediction(to_image(self.out(features)), tuple(pyramid))

    def encode(self, image: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the deepest map and the five before it, deepest first; arguments as above."""
        check_size(image, self.size_multiple)
        # White in its hole; the hole's former content is removed.
        white = image.masked_fill(mask.bool(), 1.0)
        features, maps = torch.cat([white, mask.to(image.dtype)], dim=1), []
        for conv in self.encoder[:-1]:
            features = functional.leaky_relu(conv(features), 0.2, inplace=True)
            maps.append(features)
        return functional.relu(self.encoder[-1](features)), maps[::-1]

    def attention(self, image: Tensor, mask: Tensor) -> dict[int, Tensor]:
        """Return the attention of every ATN, for visualization; arguments as above.

        Returns:
            By level, 5 the deepest: [B, h, w, h, w] for maps of H / 2^(level + 1) rows; queries
            first, keys last, 0 for keys that touch the hole. Without ATNs it is empty.
        """
        deeper, maps = self.encode(image, mask)
        weights = {}
        for level, filler, shallow in zip(range(LEVELS, 0, -1), self.fillers, maps, strict=True):
            if isinstance(filler, AttentionTransfer):
                weights[level] = filler.weights(shallow, deeper, mask)
            deeper = filler(shallow, deeper, mask)
        return weights

    def filled(self, image: Tensor, mask: Tensor) -> dict[int, Tensor]:
        """Return the maps of the skip connections as the decoder gets them; arguments as above.

        Returns:
            By level, 5 the deepest: [B, C, H / 2^level, W / 2^level].
        """
        deeper, maps = self.encode(image, mask)
        found = {}
        for level, filler, shallow in zip(range(LEVELS, 0, -1), self.fillers, maps, strict=True):
            deeper = found[level] = filler(shallow, deeper, mask)
        return found


def build_filler(config: PENNetConfig, level: int) -> nn.Module:
    """Return the module that inpaints the skip connection of a level, 1 (finest) to 5."""
    if level not in config.attended_levels:
        return Unfilled()
    if config.attention == "patch_swap":
        return PatchSwap(config)
    deepest = level == LEVELS  # released: single pixels are compared there, and not refined
    kernel_size = 1 if deepest else 3
    return AttentionTransfer(config.widths[level - 1], kernel_size, not deepest, config)


def to_image(features: Tensor) -> Tensor:
    """Return an image in [-1, 1]; its tanh is computed in float32 at least."""
    return torch.tanh(at_least_float32(features))


def check_size(image: Tensor, size_multiple: int) -> None:
    """Refuse a frame that cannot be halved six times.

    Raises:
        ValueError: with the size expected and the one that came.
    """
    height, width = image.shape[-2:]
    if height % size_multiple or width % size_multiple:
        raise ValueError(
            f"PEN-Net takes sides that are multiples of {size_multiple} px, "
            f"not {height} x {width}; pad with infill.models.architecture.fill"
        )


def initialise(module: nn.Module) -> None:
    """Sample a convolution's weight from N(0, 0.02^2) and set its bias to 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, INITIAL_DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Discriminator(nn.Module):
    """A patch discriminator with a receptive field of 93 px; all but the last conv normalised."""

    def __init__(self, config: PENNetConfig) -> None:
        super().__init__()
        widths = [factor * config.discriminator_channels for factor in (1, 2, 4, 8)]
        self.convs = nn.ModuleList(
            SpectralConv2d(inward, outward, 5, stride=stride, padding=1, bias=False)
            for inward, outward, stride in zip((3, *widths[:-1]), widths, (2, 2, 2, 1), strict=True)
        )
        self.out = nn.Conv2d(widths[-1], 1, 5, padding=1)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Score patches of [B, 3, H, W] in [-1, 1]: logits [B, 1, h, w], 27 x 27 for 256 x 256."""
        features = image
        for conv in self.convs:
            features = functional.leaky_relu(conv(features), 0.2, inplace=True)
        logits: Tensor = self.out(features)
        return logits


def build_generator(config: PENNetConfig) -> nn.Module:
    """Return the generator of a configuration, with the authors' initialisation."""
    return Generator(config)
