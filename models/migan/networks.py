"""MI-GAN's generator: an encoder and a decoder of separable convolutions, with skip connections."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_least_float32
from infill.models.masking import hide
from infill.models.migan.config import MIGANConfig
from infill.models.migan.layers import NormalisedConv, Resample, SeparableConv, activate


class Prediction(NamedTuple):
    """The generator's outputs."""

    final: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    unclipped: Tensor
    """[B, 3, H, W], of which ``final`` is cut to the range."""
    colours: tuple[Tensor, ...]
    """What each size adds to the image, coarse to fine: [B, 3, h, w], the last at full size."""


class EncoderBlock(nn.Module):
    """Two separable convolutions, the second of half the size but at the deepest block."""

    def __init__(self, wide: int, narrow: int, num_kernels: int, halves: bool) -> None:
        super().__init__()
        self.first = SeparableConv(wide, wide, num_kernels)
        self.second = SeparableConv(wide, narrow, num_kernels, "half" if halves else "")

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return [B, C', h, w] for the next block, and [B, C, H, W] for the decoder."""
        seen = self.first(features)
        return self.second(seen), seen


class DecoderBlock(nn.Module):
    """Twice the size, the encoder's features, another convolution, and a share of the image."""

    def __init__(self, wide: int, narrow: int, num_kernels: int, noise_px: int) -> None:
        """Build the block; ``noise_px`` is 0 at the deepest one, which keeps the size."""
        super().__init__()
        resample = "double" if noise_px else ""
        self.first = SeparableConv(wide, narrow, num_kernels, resample, noise_px)
        self.second = SeparableConv(narrow, narrow, num_kernels, noise_px=noise_px)
        self.colours = NormalisedConv(narrow, 3, 1, num_kernels)

    def forward(
        self, features: Tensor, seen: Tensor, noise: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return [B, C', 2H, 2W] for the next block, and colours [B, 3, 2H, 2W].

        Args:
            features: of the block before, [B, C, H, W].
            seen: the encoder's, [B, C', 2H, 2W].
            noise: of both convolutions, [B, 1, 2H, 2W] each; the constant maps if None.
        """
        first, second = noise or (None, None)
        features = self.first(features, noise=first) + seen
        features = self.second(features, noise=second)
        return features, self.colours(features)


class Generator(nn.Module):
    """Encode to 4 px, decode with skip connections, and sum the colours of every size."""

    def __init__(self, config: MIGANConfig) -> None:
        super().__init__()
        widths, count = config.widths, config.num_kernels
        self.size_multiple = config.size_multiple
        # The entry has one kernel in training too, as released.
        self.entry = NormalisedConv(4, widths[0], 1, min(count, 1))
        deeper = (*widths[1:], widths[-1])
        self.encoder = nn.ModuleList(
            EncoderBlock(wide, narrow, count, halves=level < config.num_halvings)
            for level, (wide, narrow) in enumerate(zip(widths, deeper, strict=True))
        )
        sides = [0] + [config.image_size_px >> level for level in range(config.num_halvings)][::-1]
        pairs = zip((widths[-1], *widths[::-1]), widths[::-1], strict=False)
        self.decoder = nn.ModuleList(
            DecoderBlock(wide, narrow, count, noise_px=side)
            for (wide, narrow), side in zip(pairs, sides, strict=True)
        )
        self.enlarge = Resample(doubles=True)

    def forward(
        self, image: Tensor, mask: Tensor, noise: tuple[tuple[Tensor, Tensor], ...] | None = None
    ) -> Prediction:
        """Predict the whole frame.

        Args:
            image: [B, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
            mask: [B, 1, H, W], 1 in the hole.
            noise: as of :meth:`random_noise`; the constant maps if None.

        Raises:
            ValueError: if H or W is not a multiple of 2 to the number of halvings.
        """
        check_size(image, self.size_multiple)
        features = activate(self.entry(masked_input(image, mask)))
        seen: list[Tensor] = []
        for block in self.encoder:
            features, kept = block(features)
            seen.append(kept)
        colours: list[Tensor] = []
        output: Tensor | None = None
        for index, block in enumerate(self.decoder):
            own = noise[index - 1] if noise and index else None
            features, share = block(features, seen[-1 - index], own)
            colours.append(at_least_float32(share))
            output = colours[-1] if output is None else self.enlarge(output) + colours[-1]
        assert output is not None
        return Prediction(output.clamp(-1.0, 1.0), output, tuple(colours))

    def random_noise(self, image: Tensor, seed: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return normal noise for every block of the decoder but the deepest.

        Args:
            image: [B, 3, H, W], whose size, type and device count.
            seed: of the values, which are the same on every device.
        """
        source = torch.Generator().manual_seed(seed)
        height, width = image.shape[-2:]
        pairs = []
        for level in range(len(self.decoder) - 2, -1, -1):
            shape = (2, len(image), 1, height >> level, width >> level)
            values = torch.randn(shape, generator=source, device="cpu", dtype=torch.float32)
            first, second = values.to(image.device, image.dtype)
            pairs.append((first, second))
        return tuple(pairs)


def masked_input(image: Tensor, mask: Tensor) -> Tensor:
    """Return what the generator reads: [B, 4, H, W].

    First 1/2 where known and -1/2 in the hole, then colours, 0 in the hole.
    """
    return torch.cat([0.5 - mask.to(image.dtype), hide(image, mask)], dim=1)


def check_size(image: Tensor, size_multiple: int) -> None:
    """Refuse a frame that cannot be halved as often as the network does.

    Raises:
        ValueError: with the size expected and the one that came.
    """
    height, width = image.shape[-2:]
    if height % size_multiple or width % size_multiple:
        raise ValueError(
            f"this MI-GAN takes sides that are multiples of {size_multiple} px, "
            f"not {height} x {width}; pad with infill.models.architecture.fill"
        )


class Linear(nn.Module):
    """A linear layer whose weight is divided by the root of its inputs."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(narrow, wide))
        self.bias = nn.Parameter(torch.zeros(narrow))

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C] into [B, C']."""
        return functional.linear(features, self.weight / self.weight.shape[1] ** 0.5, self.bias)
