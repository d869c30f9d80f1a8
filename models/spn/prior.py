"""The semantic prior learner: from the masked image to a pyramid of features (Sec. 3.1)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.spn.blocks import DenseBlock, MergingBlock, ResidualBlock, doubled, reflected
from infill.models.spn.config import SPNConfig


class SemanticEncoder(nn.Module):
    """Features of the doubled image at full, half and quarter size."""

    def __init__(self, config: SPNConfig) -> None:
        super().__init__()
        channels = config.channels
        self.slope = config.semantic_slope
        self.conv1 = reflected(4, channels, 7)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * channels, 4 * channels, 4, stride=2, padding=1)
        self.conv4 = nn.Conv2d(4 * channels, 4 * channels, 4, stride=2, padding=1)

    def forward(self, masked_image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode an image in [0, 1], white in its hole, and its mask; coarsest level first."""
        features = doubled(torch.cat([masked_image, mask], dim=1))
        features = self._activate(self.conv1(features))
        fine = self._activate(self.conv2(features))
        middle = self._activate(self.conv3(fine))
        return self._activate(self.conv4(middle)), middle, fine

    def _activate(self, features: Tensor) -> Tensor:
        if self.slope == 0.0:
            return functional.relu(features, inplace=True)
        return functional.leaky_relu(features, self.slope, inplace=True)


class DenseTrunk(nn.Module):
    """Residual dense blocks in a chain, all of their outputs gathered (a residual dense network).

    Not in the paper's text, but in the released code and in the published parameter counts.
    """

    def __init__(self, config: SPNConfig) -> None:
        super().__init__()
        width = 4 * config.channels
        self.width = width
        self.entry = nn.Conv2d(width, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            DenseBlock(width, config.channels // 2, config.num_dense_layers)
            for _ in range(config.num_dense_blocks)
        )
        self.gather = nn.Conv2d(width * config.num_dense_blocks, width, 1)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, encoded: Tensor) -> Tensor:
        """Refine [B, C, H/4, W/4]."""
        features = self.entry(encoded)
        gathered: Tensor | None = None
        weights = torch.split(self.gather.weight, self.width, 1)
        # The 1x1 convolution over all outputs is summed block by block: no tensor of them all.
        for block, weight in zip(self.blocks, weights, strict=True):
            features = block(features)
            bias = self.gather.bias if gathered is None else None
            part = functional.conv2d(features, weight, bias)
            gathered = part if gathered is None else gathered + part
        assert gathered is not None
        refined: Tensor = self.smooth(gathered)
        return refined + encoded


class Rise(nn.Module):
    """One level up the pyramid: pixel shuffle, then merge with the encoder's features."""

    def __init__(self, in_channels: int, out_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1)
        self.merge = MergingBlock(skip_channels + out_channels, out_channels)

    def forward(self, prior: Tensor, skip: Tensor) -> Tensor:
        """Turn a prior [B, C_in, H/2, W/2] into one of [B, C_out, H, W]."""
        lifted = functional.relu(functional.pixel_shuffle(self.lift(prior), 2), inplace=True)
        merged: Tensor = self.merge(skip, lifted)
        return merged


class PriorLearner(nn.Module):
    """Predict the semantics of the whole image from its known pixels (Eq. 2 and 3)."""

    def __init__(self, config: SPNConfig) -> None:
        super().__init__()
        channels = config.channels
        self.encoder = SemanticEncoder(config)
        self.trunk = DenseTrunk(config)
        self.blocks = nn.ModuleList(
            ResidualBlock(4 * channels) for _ in range(config.num_prior_blocks)
        )
        rises = [
            Rise(4 * channels, 2 * channels, skip_channels=4 * channels),
            Rise(2 * channels, channels, skip_channels=2 * channels),
        ]
        self.rises = nn.ModuleList(rises[: config.prior_levels - 1])

    def forward(self, masked_image: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Learn the prior pyramid.

        Args:
            masked_image: [B, 3, H, W] in [0, 1], 1 inside the hole.
            mask: [B, 1, H, W], 1 in the hole.

        Returns:
            Coarsest first: [B, 4C, H/4, W/4], [B, 2C, H/2, W/2], [B, C, H, W].
        """
        encoded, *skips = self.encoder(masked_image, mask)
        prior = self.trunk(encoded)
        for block in self.blocks:
            prior = block(prior)
        return self.rise(prior, skips)

    def rise(self, prior: Tensor, skips: list[Tensor]) -> tuple[Tensor, ...]:
        """Continue from the coarsest prior to the finest."""
        pyramid = [prior]
        for rise, skip in zip(self.rises, skips, strict=False):
            pyramid.append(rise(pyramid[-1], skip))
        return tuple(pyramid)
