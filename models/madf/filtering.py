"""Convolution with a kernel of its own at every position, made from the mask (Sec. III-B).

The kernel is affine in the mask's features m, so the filtered value is too:

    out[o, p] = sum_c m[c, p] * (sum_j W[j, o, c] x[j, p]) + sum_j b[j, o] x[j, p]

with x[:, p] the window at position p. The static filters in brackets run first, over all
positions at once, and are then mixed by m. No kernel is ever stored per position, which takes
j / 17 times the memory: 17 to 68 times, at the published widths.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_least_float32

CONVOLVED_LEVELS = 3
"""Levels whose static filters run as a convolution. Deeper, positions are few and filters many:
there a matrix product on windows uses the parameters as they lie in memory."""


class DynamicConv2d(nn.Module):
    """A convolution whose kernels are generated at every position from the mask's features."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        mask_channels: int,
        convolve: bool,
    ) -> None:
        """Build the kernel generator, a 1x1 convolution with PyTorch's initialisation.

        Args:
            in_channels: of the image's features.
            out_channels: of the filtered features.
            kernel_size: of the window, padded with zeros by half of it.
            stride: between windows.
            mask_channels: of the mask's features.
            convolve: run the static filters as a convolution, not on unfolded windows.
        """
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, kernel_size // 2
        self.mask_channels = mask_channels
        self.convolve = convolve
        self.window = in_channels * kernel_size**2
        # Its output d = ((c_in * k + row) * k + column) * out_channels + o is never computed.
        self.kernels = nn.Conv2d(mask_channels, self.window * out_channels, 1)

    def forward(self, features: Tensor, mask_features: Tensor) -> Tensor:
        """Filter the features: no bias, no activation.

        Args:
            features: [B, C_in, H, W].
            mask_features: [B, C_m, H', W'], with H' and W' the size after the stride.

        Returns:
            [B, C_out, H', W'], at least float32: the mix of 16 filters is summed in it.
        """
        static = self.convolved if self.convolve else self.multiplied
        mixed, plain = static(features, mask_features.shape[-2:])
        return (at_least_float32(mixed) * mask_features[:, None]).sum(dim=2) + plain

    def convolved(self, features: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Run the static filters as one convolution.

        Returns:
            The filters that the mask's features mix, [B, C_out, C_m, H', W'], and those that
            stand alone, [B, C_out, H', W'].
        """
        bank = torch.cat([self._mixed_filters(), self._plain_filters()], dim=1)
        square = (self.in_channels, self.kernel_size, self.kernel_size)
        filtered = functional.conv2d(
            features, bank.t().view(-1, *square), stride=self.stride, padding=self.padding
        )
        assert filtered.shape[-2:] == size
        shape = (features.shape[0], self.out_channels, self.mask_channels, *size)
        count = self.out_channels * self.mask_channels
        return filtered[:, :count].view(shape), filtered[:, count:]

    def multiplied(self, features: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Run the static filters as matrix products on windows; returns as :meth:`convolved`."""
        windows = functional.unfold(
            features, self.kernel_size, padding=self.padding, stride=self.stride
        )
        rows = windows.transpose(1, 2)  # [B, H' * W', J]
        height, width = size
        shape = (features.shape[0], height, width)
        mixed = (rows @ self._mixed_filters()).view(*shape, self.out_channels, self.mask_channels)
        plain = (rows @ self._plain_filters()).view(*shape, self.out_channels)
        return mixed.permute(0, 3, 4, 1, 2), plain.permute(0, 3, 1, 2)

    def _mixed_filters(self) -> Tensor:
        """View the generator's weight as [J, C_out * C_m]."""
        return self.kernels.weight.view(self.window, self.out_channels * self.mask_channels)

    def _plain_filters(self) -> Tensor:
        """View the generator's bias as [J, C_out]."""
        assert self.kernels.bias is not None
        return self.kernels.bias.view(self.window, self.out_channels)

    def kernels_at(self, mask_features: Tensor) -> Tensor:
        """Return the kernels that mask features [N, C_m] generate, [N, C_out, C_in, k, k]."""
        kernels = functional.linear(
            mask_features, self.kernels.weight.flatten(1), self.kernels.bias
        ).view(-1, self.in_channels, self.kernel_size, self.kernel_size, self.out_channels)
        return kernels.permute(0, 4, 1, 2, 3)


class DynamicEncoder(nn.Module):
    """Levels of dynamic convolutions; each level's kernels come from the level's mask features."""

    def __init__(
        self,
        filter_widths: tuple[int, ...],
        skip_widths: tuple[int, ...],
        mask_channels: int,
        dead_norms: bool,
    ) -> None:
        super().__init__()
        kernel_sizes = square_sizes(len(filter_widths))
        self.masks = nn.ModuleList(
            nn.Conv2d(channels, mask_channels, kernel_size, stride=2, padding=kernel_size // 2)
            for channels, kernel_size in zip(
                (3, *[mask_channels] * (len(filter_widths) - 1)), kernel_sizes, strict=True
            )
        )
        self.filters = nn.ModuleList(
            DynamicConv2d(wide, narrow, kernel_size, 2, mask_channels, level < CONVOLVED_LEVELS)
            for level, (wide, narrow, kernel_size) in enumerate(
                zip((6, *filter_widths[:-1]), filter_widths, kernel_sizes, strict=True)
            )
        )
        self.lifts = nn.ModuleList(
            nn.Conv2d(narrow, wide, 1)
            for narrow, wide in zip(filter_widths, skip_widths, strict=True)
        )
        if dead_norms:
            self.dead_norms = nn.ModuleList(nn.BatchNorm2d(width) for width in filter_widths)
            self.dead_norms.requires_grad_(False)

    def forward(self, entry: Tensor, known: Tensor) -> list[Tensor]:
        """Encode the masked image.

        Args:
            entry: [B, 6, H, W], the masked image and three copies of ``known``.
            known: [B, 1, H, W], 1 where known, 0 in the hole.

        Returns:
            The skip connections, level 1 first: [B, C_u, H / 2^l, W / 2^l].
        """
        features, mask_features, skips = entry, known.expand(-1, 3, -1, -1), []
        for mask, dynamic, lift in zip(self.masks, self.filters, self.lifts, strict=True):
            mask_features = functional.relu(mask(mask_features))
            features = functional.relu(dynamic(features, mask_features), inplace=True)
            skips.append(functional.relu(lift(features), inplace=True))
        return skips

    def mask_features(self, known: Tensor, level: int) -> Tensor:
        """Return the mask's features at a level, 1 being the first: [B, C_m, h, w]."""
        features = known.expand(-1, 3, -1, -1)
        for mask in self.masks[:level]:
            features = functional.relu(mask(features))
        return features


class GatedEncoder(nn.Module):
    """Levels of gated convolutions, as wide as the skip connections: GConv in Table II.

    The paper does not give its widths; these make the decoder the one MADF has.
    """

    def __init__(self, skip_widths: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(narrow, 2 * wide, kernel_size, stride=2, padding=kernel_size // 2)
            for narrow, wide, kernel_size in zip(
                (6, *skip_widths[:-1]), skip_widths, square_sizes(len(skip_widths)), strict=True
            )
        )

    def forward(self, entry: Tensor, known: Tensor) -> list[Tensor]:
        """Encode as :meth:`DynamicEncoder.forward`; the mask is seen in ``entry`` only."""
        features, skips = entry, []
        for conv in self.convs:
            values, gates = conv(features).chunk(2, dim=1)
            features = functional.relu(values) * torch.sigmoid(gates)
            skips.append(features)
        return skips


def square_sizes(levels: int) -> tuple[int, ...]:
    """Return each level's kernel size: 7, 5, 3, 3, ..."""
    return (7, 5, *[3] * (levels - 2))
