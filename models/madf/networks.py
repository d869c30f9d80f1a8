"""MADF's generator: an encoder aware of the mask, one recovery and K refinement decoders.

The authors normalise images with ImageNet's colours and count 1 as known; both are converted at
the generator's doors. Losses are computed on ``outputs``, in the authors' colours.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_least_float32
from infill.models.madf.config import MADFConfig
from infill.models.madf.filtering import DynamicConv2d, DynamicEncoder, GatedEncoder
from infill.models.vgg import COLOUR_DEVIATION, COLOUR_MEAN

SLOPE = 0.2
"""Negative slope of every leaky ReLU."""


class Prediction(NamedTuple):
    """The generator's output, and every decoder's."""

    final: Tensor
    """The last image, [B, 3, H, W] in [-1, 1]."""
    outputs: tuple[Tensor, ...] = ()
    """Pictures of recovery and refinement decoders, coarse to fine, each [B, 3, H, W] in normalized
    colours and unbounded: the input of the losses."""


class NormalisedColours(nn.Module):
    """From [-1, 1] to the colours the network works in, and back."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(COLOUR_MEAN)[:, None, None], persistent=False)
        self.register_buffer(
            "deviation", torch.tensor(COLOUR_DEVIATION)[:, None, None], persistent=False
        )

    def forward(self, image: Tensor) -> Tensor:
        """Normalise [B, 3, H, W] in [-1, 1] by ImageNet's mean and deviation."""
        return (0.5 * image + (0.5 - self.mean)) / self.deviation

    def undone(self, colours: Tensor) -> Tensor:
        """Turn normalised colours into [-1, 1], clamped."""
        return (2.0 * (colours * self.deviation + self.mean) - 1.0).clamp(-1.0, 1.0)


class RecoveryBlock(nn.Module):
    """Double the size and merge the skip connection there (Sec. III-C)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.rise = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)
        self.merge = nn.Conv2d(2 * out_channels, out_channels, 3, padding=1)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """Turn [B, C_in, h, w] and a skip [B, C, 2h, 2w] into [B, C, 2h, 2w]."""
        risen = functional.leaky_relu(self.norm(self.rise(features)), SLOPE, inplace=True)
        return functional.relu(self.merge(torch.cat([skip, risen], dim=1)), inplace=True)


class RecoveryHead(nn.Module):
    """Predict the first image from the recovery decoder's last features and the entry."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.rise = nn.ConvTranspose2d(in_channels, 3, 4, stride=2, padding=1)
        self.merge = nn.Conv2d(9, 3, 3, padding=1)

    def forward(self, features: Tensor, entry: Tensor) -> Tensor:
        """Turn [B, C, H/2, W/2] and the entry [B, 6, H, W] into an image [B, 3, H, W]."""
        image: Tensor = self.merge(torch.cat([entry, self.rise(features)], dim=1))
        return image


class PointwiseNorm(nn.Module):
    """Batch norm whose gain and shift come, at every position, from a condition (Sec. III-C).

    y = (1 + gain) * norm(x) + shift, as released; the paper prints gain alone.
    """

    def __init__(self, channels: int, condition_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.hidden = nn.Conv2d(condition_channels, hidden_channels, 3, padding=1)
        self.gain = nn.Conv2d(hidden_channels, channels, 3, padding=1)
        self.shift = nn.Conv2d(hidden_channels, channels, 3, padding=1)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Normalise [B, C, h, w] under a condition [B, C', h, w]."""
        hidden = functional.relu(self.hidden(condition), inplace=True)
        assert self.gain.bias is not None
        # The 1 of 1 + gain rides on the bias: no map is written for it.
        gain = functional.conv2d(hidden, self.gain.weight, self.gain.bias + 1.0, padding=1)
        return torch.addcmul(self.shift(hidden), self.norm(features), gain)


class UnconditionedNorm(nn.Module):
    """Batch norm in a point-wise norm's place, deaf to the condition: "no PN" in Table II."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Normalise [B, C, h, w]."""
        normalised: Tensor = self.norm(features)
        return normalised


class RefinementBlock(nn.Module):
    """Double the size under the condition of the decoder before."""

    def __init__(self, in_channels: int, out_channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.rise = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        self.norm = norm

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Turn [B, C_in, h, w] and a condition [B, C, 2h, 2w] into [B, C, 2h, 2w]."""
        return functional.leaky_relu(self.norm(self.rise(features), condition), SLOPE, inplace=True)


class RefinementDecoder(nn.Module):
    """One refinement: blocks from the deepest level to level 1, and a 1x1 convolution to an image.

    The head's input is its features doubled bilinearly, the earlier images and the entry, in
    the order of its weight's columns.
    """

    def __init__(self, config: MADFConfig, earlier_pictures: int) -> None:
        super().__init__()
        widths = config.skip_widths
        self.blocks = nn.ModuleList(
            RefinementBlock(wide, narrow, refinement_norm(config, narrow))
            for wide, narrow in steps_up(widths)
        )
        self.head = nn.Conv2d(widths[0] + 3 * earlier_pictures + 6, 3, 1)

    def predict(self, features: Tensor, images: list[Tensor], entry: Tensor) -> Tensor:
        """Predict an image [B, 3, H, W] from features [B, C, H/2, W/2].

        A 1x1 convolution and a doubling commute: features become three colours first.
        """
        own, seen = self.head.weight.tensor_split((features.shape[1],), dim=1)
        doubled = functional.interpolate(
            functional.conv2d(features, own),
            scale_factor=2.0,
            mode="bilinear",
            align_corners=False,
        )
        rest = functional.conv2d(torch.cat([*images, entry], dim=1), seen, self.head.bias)
        return doubled + rest


def refinement_norm(config: MADFConfig, channels: int) -> nn.Module:
    """Return the norm of a refinement block; its condition is as wide as its features."""
    if config.refinement_norm == "batch":
        return UnconditionedNorm(channels)
    return PointwiseNorm(channels, channels, config.norm_channels)


def steps_up(widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the widths before and after each doubling, from the deepest level to level 1."""
    return list(zip(widths[:0:-1], widths[-2::-1], strict=True))


class Generator(nn.Module):
    """Inpaint a hole by kernels made from the mask, and refine the result K times."""

    def __init__(self, config: MADFConfig) -> None:
        super().__init__()
        self.size_multiple = config.size_multiple
        self.colours = NormalisedColours()
        self.encoder = build_encoder(config)
        widths = config.skip_widths
        self.recovery = nn.ModuleList(RecoveryBlock(*step) for step in steps_up(widths))
        self.recovery_head = RecoveryHead(widths[0])
        self.refinements = nn.ModuleList(
            RefinementDecoder(config, earlier_pictures=1 + index)
            for index in range(config.num_refinements)
        )

    def forward(self, image: Tensor, mask: Tensor) -> Prediction:
        """Predict the whole frame.

        Args:
            image: [B, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
            mask: [B, 1, H, W], 1 in the hole.

        Returns:
            ``final``, [B, 3, H, W] in [-1, 1], and ``outputs``, its K + 1 stages.

        Raises:
            ValueError: if H or W is not a multiple of 2^levels.
        """
        check_size(image, self.size_multiple)
        masked, known = entered(self.colours, image, mask)
        entry = torch.cat([masked, known.expand_as(masked)], dim=1)
        outputs = self.decode(entry, self.encoder(entry, known))
        return Prediction(self.colours.undone(outputs[-1]), tuple(outputs))

    def decode(self, entry: Tensor, skips: list[Tensor]) -> list[Tensor]:
        """Let all decoders rise together, level by level; each feels the one before (Sec. III-C).

        Only the newest features of each decoder are alive, and a skip dies where it is merged.

        Args:
            entry: [B, 6, H, W].
            skips: level 1 first; emptied.

        Returns:
            The decoders' images [B, 3, H, W], coarse to fine.
        """
        decoders = cast("list[RefinementDecoder]", list(self.refinements))
        recovered = skips.pop()
        refined = [recovered] * len(decoders)
        for level, block in enumerate(self.recovery):
            condition = recovered = block(recovered, skips.pop())
            for index, decoder in enumerate(decoders):
                condition = refined[index] = decoder.blocks[level](refined[index], condition)
        with full_precision(entry.device):
            images = [self.recovery_head(at_least_float32(recovered), entry)]
            for decoder, features in zip(decoders, refined, strict=True):
                images.append(decoder.predict(at_least_float32(features), images, entry))
        return images

    def kernels(self, mask: Tensor, level: int, row: int, column: int) -> Tensor:
        """Return the kernels generated at one position of a level, for images of them.

        Args:
            mask: [B, 1, H, W], 1 in the hole.
            level: 1 is the first.
            row: of the level's output, H / 2^level rows.
            column: of the level's output.

        Returns:
            [B, C_out, C_in, k, k].

        Raises:
            ValueError: if the encoder generates no kernels.
        """
        if not isinstance(self.encoder, DynamicEncoder):
            raise ValueError("only encoder 'dynamic' makes kernels from the mask")
        features = self.encoder.mask_features((mask == 0).to(self.colours.mean.dtype), level)
        dynamic = self.encoder.filters[level - 1]
        assert isinstance(dynamic, DynamicConv2d)
        return dynamic.kernels_at(features[:, :, row, column])


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Turn autocast off for the few channels of an image: eight bits of mantissa show in it.

    On the meta device, where parameters and arithmetic are counted, there is no autocast.
    """
    if device.type == "meta":
        return nullcontext()
    off: AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
    return off


def build_encoder(config: MADFConfig) -> nn.Module:
    """Return the encoder whose skip connections the decoders read."""
    if config.encoder == "gated":
        return GatedEncoder(config.skip_widths)
    return DynamicEncoder(
        config.filter_widths, config.skip_widths, config.mask_channels, config.dead_norms
    )


def entered(colours: NormalisedColours, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the image in normalised colours, 0 in its hole, and where it is known.

    Any mask value but 0 is hole; the hole's former content is removed, even NaN and infinity.

    Returns:
        [B, 3, H, W] and [B, 1, H, W], 1 where known.
    """
    hole = mask != 0
    masked = colours(image).masked_fill(hole, 0.0)
    return masked, (~hole).to(masked.dtype)


def check_size(image: Tensor, size_multiple: int) -> None:
    """Refuse a frame that cannot be halved as often as the network does.

    Raises:
        ValueError: with the size expected and the one that came.
    """
    height, width = image.shape[-2:]
    if height % size_multiple or width % size_multiple:
        raise ValueError(
            f"MADF takes sides that are multiples of {size_multiple} px, not {height} x {width}; "
            "pad with infill.models.architecture.fill"
        )
