"""DeepFill v2's generator of gated convolutions, and its patch discriminator."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.deepfill.layers import Chain, Convolution, glorot, pad_for_stride_2
from infill.models.deepfill.layout import Row, Rows, layout
from infill.models.deepfill.networks import (
    LEAK,
    SIZE_MULTIPLE,
    Prediction,
    Refinement,
    require_multiple,
)
from infill.models.deepfill2.config import DeepFill2Config
from infill.models.layers import SpectralConv2d, at_least_float32
from infill.models.masking import hide, paste


class GatedConvolution(Convolution):
    """A convolution half of whose maps decide how much of the other half passes (Sec. 3.1)."""

    def __init__(self, in_channels: int, row: Row) -> None:
        super().__init__(in_channels, row, padding="same")

    @property
    def width(self) -> int:
        """Channels after the gates; the last convolution has none."""
        return self.row.width if self.row.activation == "none" else self.row.width // 2

    def activate(self, features: Tensor) -> Tensor:
        """Turn [B, 2C, H, W] into [B, C, H, W]; the last convolution's result stays as it is."""
        if self.row.activation == "none":
            return features
        gated: Tensor = Gate.apply(features, self.row.activation)  # type: ignore[no-untyped-call]
        return gated


class Gate(torch.autograd.Function):
    """ELU or ReLU of the first half of the channels, times the sigmoid of the second.

    Only the input is kept; written as three functions, their results would be kept as well.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, activation: str) -> Tensor:
        """Gate [B, 2C, H, W]."""
        ctx.save_for_backward(features)
        ctx.activation = activation
        values, gate = features.chunk(2, 1)
        return _activated(values, activation) * gate.sigmoid()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient by the features."""
        values, gate = ctx.saved_tensors[0].chunk(2, 1)
        share = gate.sigmoid()
        active = _activated(values, ctx.activation)
        # Where ELU is negative it is exp(x) - 1, its own slope minus one.
        slope = active + 1.0 if ctx.activation == "elu" else torch.zeros_like(active)
        slope = torch.where(values > 0, torch.ones_like(active), slope)
        to_features = gradients[0] * share * slope
        to_gate = gradients[0] * active * share * (1.0 - share)
        return torch.cat([to_features, to_gate], 1), None


def _activated(features: Tensor, activation: str) -> Tensor:
    return functional.elu(features) if activation == "elu" else functional.relu(features)


class Generator(nn.Module):
    """A coarse image from the masked image, then a finer one from its composite."""

    def __init__(self, config: DeepFill2Config) -> None:
        super().__init__()
        tables = layout(config.channels, False, config.num_dilated, config.num_extra_convs)

        def build(in_channels: int, rows: Rows) -> Chain:
            return Chain(in_channels, rows, GatedConvolution)

        # Colours, ones and mask; the second stage is given colours only.
        self.coarse = build(5, tables.coarse)
        self.refine = Refinement(3, tables, config.attention, build)

    def forward(self, image: Tensor, mask: Tensor) -> Prediction:
        """Predict both images.

        Args:
            image: [B, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
            mask: [B, 1, H, W], 1 in the hole.

        Returns:
            ``final`` and ``coarse``; a gradient of either reaches the first stage.

        Raises:
            ValueError: if H or W is not a multiple of 8.
        """
        coarse, composite = self._first_stage(image, mask)
        predicted = self.refine(composite, mask.to(composite.dtype))
        return Prediction(final=at_least_float32(predicted).tanh(), coarse=coarse)

    @torch.no_grad()
    def most_attended(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return where the attention of each 8 x 8 cell is strongest, as a flat index.

        Args:
            image: as for :meth:`forward`.
            mask: as for :meth:`forward`.

        Returns:
            [B, H/8, W/8] int64: the row times W/8 plus the column.
        """
        _, composite = self._first_stage(image, mask)
        return self.refine.most_attended(composite, mask.to(composite.dtype))

    def _first_stage(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coarse image and its composite."""
        require_multiple(image, SIZE_MULTIPLE)
        masked_image = hide(image, mask)
        predicted = self.coarse(torch.cat([masked_image, torch.ones_like(mask), mask], dim=1))
        coarse = at_least_float32(predicted).tanh()
        return coarse, paste(coarse, masked_image, mask)


class Discriminator(nn.Module):
    """Six spectrally normalized convolutions of stride 2; every output value scores a patch."""

    def __init__(self, config: DeepFill2Config) -> None:
        super().__init__()
        self.sees_mask = config.mask_to_discriminator
        c = config.discriminator_channels
        widths = (3 + self.sees_mask, c, 2 * c, 4 * c, 4 * c, 4 * c, 4 * c)
        self.convs = nn.ModuleList(
            SpectralConv2d(wide, narrow, 5, stride=2)
            for wide, narrow in zip(widths[:-1], widths[1:], strict=True)
        )
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            glorot(conv)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Score [B, 3, H, W] with its holes [B, 1, H, W]: [B, 4c, H/64, W/64], rounded up."""
        features = torch.cat([image, mask], dim=1) if self.sees_mask else image
        for conv in self.convs:
            features = conv(pad_for_stride_2(features, 5))
            features = functional.leaky_relu(features, LEAK, inplace=True)
        return features
