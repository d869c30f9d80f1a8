"""DeepFill v1's generator, in two stages, and its two critics."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.deepfill.attention import ContextualAttention
from infill.models.deepfill.config import AttentionConfig, DeepFillConfig
from infill.models.deepfill.layers import Chain, Convolution, glorot, pad_for_stride_2
from infill.models.deepfill.layout import Layout, Row, Rows, layout
from infill.models.layers import at_least_float32
from infill.models.masking import hide, paste
from infill.models.penalised_convolution import PenalisedConv2d

Build = Callable[[int, Rows], Chain]
"""Makes the convolutions of a table, for so many input channels."""

SIZE_MULTIPLE = 8
"""Both encoders halve the image twice, and attention works at half of that."""
LEAK = 0.2
"""Negative slope of the critics' activation."""


class Prediction(NamedTuple):
    """The outputs of the two stages."""

    final: Tensor
    """The second stage's image, [B, 3, H, W] in [-1, 1]."""
    coarse: Tensor
    """The first stage's image, the same shape and range."""


class Refinement(nn.Module):
    """The second stage: a branch that imagines and one that copies, merged in one decoder.

    Without attention the copying branch is not built.
    """

    def __init__(
        self, in_channels: int, tables: Layout, attention: AttentionConfig, build: Build
    ) -> None:
        super().__init__()
        self.imagine = build(in_channels, tables.imagine)
        width = self.imagine.width
        self.copies = attention.kind == "contextual"
        if self.copies:
            self.match = build(in_channels, tables.match)
            self.attention = ContextualAttention(attention)
            self.rebuild = build(self.match.width, tables.rebuild)
            width += self.rebuild.width
        self.merge = build(width, tables.merge)

    def forward(self, composite: Tensor, mask: Tensor) -> Tensor:
        """Predict [B, 3, H, W], unbounded, from the first stage's composite and the mask."""
        features = self.imagine(composite)
        if self.copies:
            copied = self.attention(self.match(composite), mask)
            # The attention comes back in float32; outside autocast this changes nothing.
            features = torch.cat([features, self.rebuild(copied.to(features.dtype))], dim=1)
        predicted: Tensor = self.merge(features)
        return predicted

    def most_attended(self, composite: Tensor, mask: Tensor) -> Tensor:
        """Return the flat index that each place looks at most, [B, H/8, W/8].

        Raises:
            ValueError: if the network has no attention.
        """
        if not self.copies:
            raise ValueError("attention.kind 'none' leaves no attention to look at")
        return self.attention.most_attended(self.match(composite), mask)


class Generator(nn.Module):
    """A coarse image from the masked image, then a finer one from its composite."""

    def __init__(self, config: DeepFillConfig) -> None:
        super().__init__()
        wide = config.refinement == "paper"
        tables = layout(config.channels, wide, config.num_dilated, config.num_extra_convs)

        def build(in_channels: int, rows: Rows) -> Chain:
            def layer(channels: int, row: Row) -> Convolution:
                return Convolution(channels, row, config.padding)

            return Chain(in_channels, rows, layer)

        # Colours, ones and mask: the ones show where zero padding begins.
        self.coarse = build(5, tables.coarse)
        self.refine = Refinement(5, tables, config.attention, build)

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
        return Prediction(final=clipped(predicted), coarse=coarse)

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
        """Return the coarse image and the five channels for the second stage."""
        require_multiple(image, SIZE_MULTIPLE)
        masked_image = hide(image, mask)
        coarse = clipped(self.coarse(_with_border_and_mask(masked_image, mask)))
        return coarse, _with_border_and_mask(paste(coarse, masked_image, mask), mask)


def _with_border_and_mask(image: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([image, torch.ones_like(mask), mask], dim=1)


def clipped(predicted: Tensor) -> Tensor:
    """Cut an image to [-1, 1], in full precision."""
    return at_least_float32(predicted).clamp(-1.0, 1.0)


def require_multiple(image: Tensor, multiple: int) -> None:
    """Refuse images whose sides are not multiples of ``multiple``.

    Raises:
        ValueError: naming the multiple and both sides.
    """
    height, width = image.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(
            f"height and width must be multiples of {multiple}, got {height} x {width}"
        )


class Scores(NamedTuple):
    """The scores of the two critics for each image."""

    whole: Tensor
    """Scores of the whole images, [B]; any real number."""
    window: Tensor
    """Scores of the windows around their holes, [B]."""


class Critic(nn.Module):
    """Four convolutions of stride 2 and one linear unit, for images of one size."""

    def __init__(self, size_px: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.size_px = size_px
        self.convs = nn.ModuleList(
            PenalisedConv2d(wide, narrow, 5, stride=2)
            for wide, narrow in zip((3, *widths), widths, strict=False)
        )
        side = size_px // 2 ** len(widths)
        self.head = nn.Linear(widths[-1] * side**2, 1)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            glorot(conv)
        glorot(self.head)

    def forward(self, image: Tensor) -> Tensor:
        """Score [B, 3, S, S] in [-1, 1]: scores [B].

        Raises:
            ValueError: if S is not the size the last layer was made for.
        """
        if image.shape[-2:] != (self.size_px, self.size_px):
            raise ValueError(
                f"this critic scores images of {self.size_px} x {self.size_px}, "
                f"got {image.shape[-2]} x {image.shape[-1]}"
            )
        features = image
        for conv in self.convs:
            features = conv(pad_for_stride_2(features, 5))
            features = functional.leaky_relu(features, LEAK, inplace=True)
        scores: Tensor = self.head(features.flatten(1))
        return scores[:, 0]


class Critics(nn.Module):
    """The global critic and the local one, in full precision even under autocast.

    A gradient penalty is a gradient of a gradient, for which half precision is too coarse.
    """

    def __init__(self, config: DeepFillConfig) -> None:
        super().__init__()
        c = 2 * config.channels
        self.whole = Critic(config.image_size_px, (c, 2 * c, 4 * c, 4 * c))
        self.window = Critic(config.local_size_px, (c, 2 * c, 4 * c, 8 * c))

    def forward(self, images: Tensor, windows: Tensor) -> Scores:
        """Score images [B, 3, S, S] and windows [B, 3, s, s]."""
        with torch.autocast(images.device.type, enabled=False):
            images, windows = at_least_float32(images), at_least_float32(windows)
            return Scores(whole=self.whole(images), window=self.window(windows))
