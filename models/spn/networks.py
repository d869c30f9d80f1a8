"""SPN's generator and discriminator.

The authors work in [0, 1]. Both networks take and give [-1, 1] and convert inside.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import SpectralConv2d, at_least_float32, normalise_each
from infill.models.masking import whitened
from infill.models.spn.blocks import (
    LearnedRegionNorm,
    RegionNorm,
    SpadeResidualBlock,
    SpadeRisingBlock,
    doubled,
    reflected,
)
from infill.models.spn.config import SPNConfig
from infill.models.spn.prior import PriorLearner
from infill.models.spn.teacher import WIDTHS

SMALLEST_SIZE_PX = 12
"""At a quarter of this size a reflection of two pixels is still possible."""


class Prediction(NamedTuple):
    """The generator's output, and its prediction of the teacher's features."""

    final: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    prior: tuple[Tensor, ...] = ()
    """The heads' maps, coarsest first, as wide as the teacher's; empty outside training."""
    latent: tuple[Tensor, ...] = ()
    """Mean and deviation of the probabilistic variant's latent."""


class ImageEncoder(nn.Module):
    """Features of the masked image at a quarter of its size; the mask enters by normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = reflected(3, channels, 7)
        self.norm1 = RegionNorm(channels)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)
        self.norm2 = RegionNorm(2 * channels)
        self.conv3 = nn.Conv2d(2 * channels, 4 * channels, 4, stride=2, padding=1)
        self.norm3 = RegionNorm(4 * channels)

    def forward(self, masked_image: Tensor, hole: Tensor) -> Tensor:
        """Encode [B, 3, H, W] in [0, 1] and a bool [B, 1, H, W] into [B, 4C, H/4, W/4]."""
        features = functional.relu(self.norm1(self.conv1(masked_image), hole))
        features = functional.relu(self.norm2(self.conv2(features), hole[..., ::2, ::2]))
        return functional.relu(self.norm3(self.conv3(features), hole[..., ::4, ::4]))


class PlainRise(nn.Module):
    """Double the size without a prior, as SPL does."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1)
        self.norm = LearnedRegionNorm()

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C_in, H/2, W/2] into [B, C_out, H, W]."""
        return functional.relu(self.norm(functional.pixel_shuffle(self.lift(features), 2)))


class SpadeDecoder(nn.Module):
    """Residual blocks and rising blocks modulated by the prior pyramid (Eq. 9)."""

    def __init__(self, config: SPNConfig) -> None:
        super().__init__()
        channels, hidden = config.channels, config.spade_hidden_channels
        self.blocks = nn.ModuleList(
            SpadeResidualBlock(4 * channels, 4 * channels, hidden(4 * channels))
            for _ in range(config.num_blocks)
        )
        steps = [(4 * channels, 2 * channels), (2 * channels, channels)]
        modulated = config.prior_levels - 1
        self.rises = nn.ModuleList(
            SpadeRisingBlock(wide, narrow, narrow, hidden(narrow))
            for wide, narrow in steps[:modulated]
        )
        self.plain_rises = nn.ModuleList(PlainRise(*step) for step in steps[modulated:])

    def forward(self, features: Tensor, pyramid: tuple[Tensor, ...]) -> Tensor:
        """Decode [B, 4C, H/4, W/4] and a pyramid, coarsest first, into [B, C, H, W]."""
        for block in self.blocks:
            features = block(features, pyramid[0])
        for rise, prior in zip(self.rises, pyramid[1:], strict=True):
            features = rise(features, prior)
        for plain_rise in self.plain_rises:
            features = plain_rise(features)
        return features


class ConcatDecoder(nn.Module):
    """The ablation without SPADE: priors are concatenated, norms have no modulation (Fig. 7)."""

    def __init__(self, config: SPNConfig) -> None:
        super().__init__()
        channels = config.channels
        self.merge = nn.Conv2d(8 * channels, 4 * channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            PlainResidualBlock(4 * channels) for _ in range(config.num_blocks)
        )
        self.rises = nn.ModuleList(
            [
                PlainNarrowingBlock(6 * channels, 2 * channels),
                PlainNarrowingBlock(3 * channels, channels),
            ]
        )

    def forward(self, features: Tensor, pyramid: tuple[Tensor, ...]) -> Tensor:
        """Decode [B, 4C, H/4, W/4] and a pyramid, coarsest first, into [B, C, H, W]."""
        features = self.merge(torch.cat([features, pyramid[0]], dim=1))
        for block in self.blocks:
            features = block(features)
        for rise, prior in zip(self.rises, pyramid[1:], strict=True):
            features = rise(torch.cat([doubled(features), prior], dim=1))
        return features


class PlainResidualBlock(nn.Module):
    """:class:`SpadeResidualBlock` with instance normalisation in place of SPADE."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = reflected(channels, channels, 3, dilation=2)
        self.conv2 = reflected(channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Refine [B, C, H, W]."""
        main = self.conv1(functional.relu(normalise_each(features)))
        refined: Tensor = features + self.conv2(functional.relu(normalise_each(main)))
        return refined


class PlainNarrowingBlock(nn.Module):
    """:class:`SpadeRisingBlock`'s two branches with instance normalisation in place of SPADE."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut_conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C_in, H, W] into [B, C_out, H, W]."""
        normalised = normalise_each(features)
        main = self.conv1(functional.leaky_relu(normalised, 0.2))
        main = self.conv2(functional.leaky_relu(normalise_each(main), 0.2))
        narrowed: Tensor = self.shortcut_conv(normalised) + main
        return narrowed


class Generator(nn.Module):
    """Fill a hole guided by a learned pyramid of semantic priors."""

    def __init__(self, config: SPNConfig, prior_learner: PriorLearner) -> None:
        super().__init__()
        channels = config.channels
        decoders = {"spade": SpadeDecoder, "concat": ConcatDecoder}
        self.size_multiple = config.size_multiple
        self.image_encoder = ImageEncoder(channels)
        self.prior_learner = prior_learner
        self.decoder = decoders[config.fusion](config)
        self.out = reflected(channels, 3, 7)
        self.heads = build_heads(config)

    def forward(self, image: Tensor, mask: Tensor) -> Prediction:
        """Predict the whole frame.

        Args:
            image: [B, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
            mask: [B, 1, H, W], 1 in the hole.

        Returns:
            ``final``, [B, 3, H, W] in [-1, 1]; in training also ``prior``, the heads' maps.

        Raises:
            ValueError: if H or W is not a multiple of 4, or under 12.
        """
        check_size(image, self.size_multiple)
        masked_image = whitened(image, mask)
        pyramid = self.prior_learner(masked_image, mask)
        features = self.image_encoder(masked_image, mask.bool())
        final = finish(self.out, self.decoder(features, pyramid))
        return Prediction(final, self.imitate(pyramid) if self.training else ())

    def imitate(self, pyramid: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the heads' maps of a pyramid, which training compares with the teacher's."""
        return tuple(head(prior) for head, prior in zip(self.heads, pyramid, strict=False))

    def prior_pyramid(self, image: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the prior pyramid itself, coarsest level first, for images of it."""
        check_size(image, self.size_multiple)
        pyramid: tuple[Tensor, ...] = self.prior_learner(whitened(image, mask), mask)
        return pyramid


def build_heads(config: SPNConfig) -> nn.ModuleList:
    """Return one 1x1 convolution per taught level, as wide as the teacher's map there."""
    if not config.has_heads:
        return nn.ModuleList()
    widths = (4 * config.channels, 2 * config.channels, config.channels)
    levels = list(zip(widths, WIDTHS[config.teacher], strict=True))
    return nn.ModuleList(nn.Conv2d(*level, 1) for level in levels[: config.prior_levels])


def finish(out: nn.Conv2d, features: Tensor) -> Tensor:
    """Predict the image from the last features; tanh in full precision."""
    return torch.tanh(at_least_float32(out(functional.leaky_relu(features, 0.2))))


def check_size(image: Tensor, size_multiple: int) -> None:
    """Refuse a frame the network cannot halve or reflect.

    Raises:
        ValueError: with the size expected and the one that came.
    """
    height, width = image.shape[-2:]
    if height % size_multiple or width % size_multiple or min(height, width) < SMALLEST_SIZE_PX:
        raise ValueError(
            f"SPN takes sides that are multiples of {size_multiple} px from {SMALLEST_SIZE_PX} px,"
            f" not {height} x {width}; pad with infill.models.architecture.fill"
        )


class Discriminator(nn.Module):
    """A spectrally normalised patch discriminator with a receptive field of 70 px."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [3, channels, 2 * channels, 4 * channels, 8 * channels, 1]
        strides = [2, 2, 2, 1, 1]
        self.convs = nn.ModuleList(
            SpectralConv2d(wide, narrow, 4, stride=stride, padding=1, bias=False)
            for wide, narrow, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Score patches of [B, 3, H, W] in [-1, 1]: logits [B, 1, H/8 - 2, W/8 - 2]."""
        features = (image + 1.0) / 2.0
        *hidden, last = self.convs
        for conv in hidden:
            features = functional.leaky_relu(conv(features), 0.2, inplace=True)
        logits: Tensor = last(features)
        return logits


def deterministic_generator(config: SPNConfig) -> Generator:
    """Return the deterministic generator, with PyTorch's default initialisation."""
    return Generator(config, PriorLearner(config))
