"""DeepGIN's coarse and refining networks, back projection between two sizes, discriminators."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.deepgin.blocks import (
    Convolution,
    ResidualBlock,
    SelfAttention,
    bordered,
    framed,
    leaky,
)
from infill.models.deepgin.config import DeepGINConfig
from infill.models.layers import SpectralConv2d, at_least_float32, doubled
from infill.models.masking import paste, whitened

SMALL = 4
"""How many times smaller the auxiliary image is (Sec. 4)."""


class Prediction(NamedTuple):
    """The networks' outputs; all but ``final`` in [0, 1], which training may exceed."""

    final: Tensor
    """``unclipped``, clipped to its range, [B, 3, H, W] in [-1, 1]."""
    unclipped: Tensor
    """The last image of the whole frame, [B, 3, H, W]; "out" in the released code."""
    coarse: Tensor
    """The first network's image, [B, 3, H, W]."""
    small: Tensor | None
    """The auxiliary image, [B, 3, H / 4, W / 4]; None without back projection."""


class Encoder(nn.ModuleList):
    """A 7 x 7 convolution and so many halvings."""

    def __init__(self, input_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__(
            [
                Convolution(input_channels, widths[0], 7),
                *(
                    Convolution(wide, wider, 4, stride=2)
                    for wide, wider in zip(widths[:-1], widths[1:], strict=True)
                ),
            ]
        )


class CoarseNetwork(nn.Module):
    """Predict a first image at an eighth of the size (Sec. 4)."""

    def __init__(self, config: DeepGINConfig) -> None:
        super().__init__()
        widths = config.widths[:4]
        self.encoder = Encoder(config.input_channels, widths)
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(widths[-1], config.pyramid_rates[0])
                for _ in range(config.num_coarse_blocks)
            )
        )
        self.rises = nn.ModuleList(
            Convolution(wide, narrow, 3)
            for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.out = Convolution(widths[0], 3, 7)

    def forward(self, masked_image: Tensor, guides: Tensor) -> Tensor:
        """Predict [B, 3, H, W], unbounded, from an image in [0, 1] and its mask.

        Args:
            masked_image: [B, 3, H, W] in [0, 1].
            guides: the mask, [B, 1, H, W], or mask and label map, [B, 4, H, W].
        """
        features = torch.cat([masked_image, guides], dim=1)
        for conv in self.encoder:
            features = leaky(framed(conv, features))
        features = self.blocks(features)
        for rise in self.rises:
            features = leaky(framed(rise, doubled(features)))
        return framed(self.out, features)


class RefiningNetwork(nn.Module):
    """Predict the image again, looking around at three sizes (Sec. 4)."""

    def __init__(self, config: DeepGINConfig) -> None:
        super().__init__()
        c1, c2, c4, c8, c16 = config.widths
        self.attends = config.attention != "none"
        self.skips = config.attention == "multi_scale"
        self.encoder = Encoder(config.input_channels, config.widths)
        self.blocks = nn.ModuleList(
            ResidualBlock(c16, config.pyramid_rates[1]) for _ in range(config.num_refine_blocks)
        )
        if self.attends:
            self.attention = SelfAttention(c16)
        self.rises = nn.ModuleList(
            Convolution(wide, narrow, 3)
            for wide, narrow in ((c16, c8), (c8, c4), (c4, c2), (c2, c1))
        )
        if self.skips:
            self.reduce = nn.ModuleList([Convolution(c8, c4, 3), Convolution(c4, c2, 3)])
            self.attend = nn.ModuleList([SelfAttention(c4), SelfAttention(c2)])
            self.mix = nn.ModuleList([Convolution(c8 + c4, c8, 3), Convolution(c4 + c2, c4, 3)])
        self.out = Convolution(c1, 3, 7)
        self.projects = config.back_projection
        if self.projects:
            self.small = nn.ModuleList([Convolution(c4, c1, 3), Convolution(c1, 3, 3)])
            self.share = Convolution(c1, 1, 3)

    def forward(self, composite: Tensor, guides: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predict [B, 3, H, W] and, with back projection, [B, 3, H / 4, W / 4]; both unbounded."""
        maps = self.encode(torch.cat([composite, guides], dim=1))
        features = self.between(maps[-1])
        for index, rise in enumerate(self.rises):
            features = leaky(framed(rise, doubled(features)))
            if self.skips and index < len(self.mix):
                features = self.mixed(index, features, maps[-2 - index])
            if index == 1:
                quarter = features
        # The share of the correction reads the same border as the image, less of it.
        padded = bordered(features, self.out.reach)
        predicted: Tensor = self.out(padded)
        if not self.projects:
            return predicted, None
        small = framed(self.small[1], leaky(framed(self.small[0], quarter)))
        inset = self.out.reach - self.share.reach
        share = torch.sigmoid(at_least_float32(self.share(padded[..., inset:-inset, inset:-inset])))
        return self.projected(predicted, small, share, composite, guides[:, :1]), small

    def encode(self, features: Tensor) -> list[Tensor]:
        """Return the map of every size, largest first."""
        maps = []
        for conv in self.encoder:
            features = leaky(framed(conv, features))
            maps.append(features)
        return maps

    def between(self, features: Tensor) -> Tensor:
        """Run the residual blocks, with attention in their middle."""
        for index, block in enumerate(self.blocks):
            if self.attends and index == len(self.blocks) // 2:
                features = self.attention(features)
            features = block(features)
        return features

    def mixed(self, index: int, features: Tensor, skip: Tensor) -> Tensor:
        """Join a rising map with the encoder's of its size, which has looked at itself."""
        skip = self.attend[index](leaky(framed(self.reduce[index], skip)))
        return leaky(framed(self.mix[index], torch.cat([features, skip], dim=1)))

    def projected(
        self, predicted: Tensor, small: Tensor, share: Tensor, composite: Tensor, mask: Tensor
    ) -> Tensor:
        """Correct the image where, made small, it differs from the small one (Sec. 4)."""
        base = paste(at_least_float32(predicted), at_least_float32(composite), mask)
        error = at_least_float32(small) - shrunk(base)
        return base + share * grown(error)


def shrunk(image: Tensor) -> Tensor:
    """Return every fourth pixel, as it were: bilinear, corners on corners, unsmoothed."""
    return functional.interpolate(
        image, scale_factor=1 / SMALL, mode="bilinear", align_corners=True
    )


def grown(image: Tensor) -> Tensor:
    """Return an image four times as large, bilinearly, corners on corners."""
    return functional.interpolate(
        image, scale_factor=float(SMALL), mode="bilinear", align_corners=True
    )


class Generator(nn.Module):
    """Fill a hole roughly, then again with a view of the whole."""

    def __init__(self, config: DeepGINConfig) -> None:
        super().__init__()
        self.size_multiple = config.size_multiple
        self.takes_labels = config.takes_labels
        self.coarse = CoarseNetwork(config)
        self.refine = RefiningNetwork(config) if config.refine else None
        initialise(self, config)

    def forward(self, image: Tensor, mask: Tensor, labels: Tensor | None = None) -> Prediction:
        """Predict the whole frame.

        Args:
            image: [B, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
            mask: [B, 1, H, W], 1 in the hole.
            labels: the label map of the whole image as colours, [B, 3, H, W] in [-1, 1]; only
                with ``segmentation_guided``.

        Returns:
            ``final`` and the images that training looks at.

        Raises:
            ValueError: if H or W is not a multiple of 16, or a label map is missing or too many.
        """
        check_size(image, self.size_multiple)
        mask = mask.to(image.dtype)
        masked_image = whitened(image, mask)
        guides = self.guides(mask, labels)
        coarse = at_least_float32(self.coarse(masked_image, guides))
        predicted, small = coarse, None
        if self.refine is not None:
            composite = paste(coarse, at_least_float32(masked_image), mask)
            predicted, small = self.refine(composite, guides)
        predicted = at_least_float32(predicted)
        return Prediction((predicted * 2.0 - 1.0).clamp(-1.0, 1.0), predicted, coarse, small)

    def guides(self, mask: Tensor, labels: Tensor | None) -> Tensor:
        """Return the channels after the colours: the mask, and a label map in [0, 1] if wanted.

        Raises:
            ValueError: if the network needs a label map and has none, or the other way round.
        """
        if (labels is not None) != self.takes_labels:
            raise ValueError(
                "DeepGIN with segmentation_guided needs a label map, [B, 3, H, W] in [-1, 1]"
                if self.takes_labels
                else "DeepGIN without segmentation_guided takes no label map"
            )
        if labels is None:
            return mask
        return torch.cat([mask, (labels.to(mask.dtype) + 1.0) / 2.0], dim=1)


def check_size(image: Tensor, size_multiple: int) -> None:
    """Refuse a frame that cannot be halved four times.

    Raises:
        ValueError: with the size expected and the one that came.
    """
    height, width = image.shape[-2:]
    if height % size_multiple or width % size_multiple:
        raise ValueError(
            f"DeepGIN takes sides that are multiples of {size_multiple} px, "
            f"not {height} x {width}; pad with infill.models.architecture.fill"
        )


def initialise(network: nn.Module, config: DeepGINConfig) -> None:
    """Sample weights by Kaiming's rule, times the gain; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            with torch.no_grad():
                module.weight.mul_(config.initial_gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if config.attention_starts_as_identity:
        for module in network.modules():
            if isinstance(module, SelfAttention):
                nn.init.zeros_(module.out.weight)


class PatchDiscriminator(nn.Module):
    """Four spectrally normalized convolutions; every channel of the last scores every patch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (6, channels, 2 * channels, 4 * channels, 4 * channels)
        self.convs = nn.ModuleList(
            SpectralConv2d(wide, narrow, 4, stride=stride, padding=2)
            for wide, narrow, stride in zip(widths[:-1], widths[1:], (2, 2, 1, 1), strict=True)
        )

    def forward(self, pair: Tensor) -> Tensor:
        """Score [B, 6, H, W]: logits [B, 4C, H / 4 + 3, W / 4 + 3]."""
        *hidden, last = self.convs
        for conv in hidden:
            pair = leaky(conv(pair))
        logits: Tensor = last(pair)
        return logits


class Discriminators(nn.Module):
    """Two patch discriminators, for the image and for it at half the size (Sec. 4)."""

    def __init__(self, config: DeepGINConfig) -> None:
        super().__init__()
        self.whole = PatchDiscriminator(2 * config.channels)
        self.halved = PatchDiscriminator(2 * config.channels)

    def forward(self, masked_image: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images [B, 3, H, W] in [0, 1] beside the masked images they complete."""
        pair = torch.cat([masked_image, image], dim=1)
        halved = functional.avg_pool2d(pair, 3, stride=2, padding=1, count_include_pad=False)
        return self.whole(pair), self.halved(halved)
