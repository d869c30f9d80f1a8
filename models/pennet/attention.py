"""Inpainting of skip connections: attention transfer (ATN, Sec. 3.1), patch swap, or none.

An ATN compares every k x k patch of a deeper map with every other and re-assembles the next
shallower map, twice as large, from its own 4 x 4 patches by these affinities. The released code
unfolds all patches; here the same function is computed without unfolding any:

- with both maps laid out flat, rows apart by a constant pitch, S[p, n] = sum of <b[p+s], b[n+s]>
  over the k * k offsets s of a patch: a sum along diagonals of the Gram matrix of pixels;
- 4 x 4 patches at stride 2 are 2 x 2 cells of 2 x 2 pixels, so what cell u receives from cell j
  is the sum of A[u-s, j-s] / 4 over the four offsets s of a cell in a patch: diagonals again.

This takes C_deep + 4 C_shallow multiplications per pair instead of k^2 C_deep + 16 C_shallow.
Queries go in blocks of rows, recomputed in the backward pass, so that no matrix of all pairs is
ever held. Scores and softmax are float32 also under autocast: queries are not normalised, and
scores reach hundreds.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from infill.models.layers import at_least_float32
from infill.models.pennet.config import PENNetConfig
from infill.models.pennet.diagonals import matched, pasted

REFINEMENT_DILATIONS = (1, 2, 4, 8)
"""Dilations of the four parallel convolutions after an attention (Fig. 2 c)."""
PAIRS_PER_BLOCK = 2**21
"""Affinities computed at once: 8 MB in float32, which a processor's cache holds."""
PAIRS_PER_BLOCK_ELSEWHERE = 2**27
"""On other devices, which need much work at a time: 512 MB."""
FEWEST_ROWS = 4
"""Rows of queries in a block, an even number: it computes two more rows for their patches."""
SMALLEST_SQUARED_NORM = 1e-8
"""Term under the root of a patch's length, so that an empty patch has a finite gradient."""
OUT_OF_REACH = -1e30
"""Score of positions that are not keys; finite, so that a row of them alone is not NaN."""
LAST_RESORT = -1e20
"""Score of the substitute for hidden keys without a share; it wins only without known keys."""


class Keys(NamedTuple):
    """A deeper map [B, C, h, w] laid out for matching its k x k patches with each other.

    Positions are flat with a pitch of w + 2, so that neighbours are at constant offsets also across
    rows; the two positions after each row are not patches.
    """

    pixels: Tensor
    """[B, C, L], padded by the patches' reach: patch n starts at pixel n."""
    norm: Tensor
    """[B, h * pitch, 1]: every patch's length."""
    scale: Tensor
    """[B, 1, h * pitch]: softmax scale over the length; 0 if the key is hidden, or none."""
    bias: Tensor
    """[B, 1, h * pitch]: 0 for a known key, out of reach for others; the very last position, no
    patch, has the share in the softmax of all hidden keys: e^bias is their number."""

    def of(self, samples: slice) -> "Keys":
        """Return the keys of some samples."""
        return Keys(*(part[samples] for part in self))


def shrink(mask: Tensor, size: Sequence[int], resize: str) -> Tensor:
    """Bring a mask [B, 1, H, W] to a level's size at once, never by way of the levels between."""
    height, width = size
    if resize == "bilinear":
        return functional.interpolate(mask, (height, width), mode="bilinear", align_corners=True)
    stride = (mask.shape[2] // height, mask.shape[3] // width)
    if resize == "nearest":
        return mask[:, :, :: stride[0], :: stride[1]]
    return functional.max_pool2d(mask, stride)


def lay_out(features: Tensor, mask: Tensor, kernel_size: int, config: PENNetConfig) -> Keys:
    """Prepare a map for matching, in float32 at least.

    Args:
        features: [B, C, h, w].
        mask: [B, 1, H, W] at the image's size, 1 in the hole.
        kernel_size: of the patches, 1 or 3.
        config: the form of the attention.
    """
    features, mask = at_least_float32(features), at_least_float32(mask)
    height, width = features.shape[2:]
    reach, pitch = kernel_size // 2, width + 2
    # One row more than patches reach, for the last patch's overhang in the flat layout.
    padded = functional.pad(features, (reach, 2 - reach, reach, 2 * reach))
    pixels = padded.flatten(2)[:, :, : (height + 2 * reach) * pitch + 2 * reach]

    hole = shrink(mask, features.shape[2:], config.mask_resize)
    known = (functional.max_pool2d(hole, kernel_size, 1, reach) == 0).to(features.dtype)
    norm = patch_norms(features, kernel_size)
    scale = functional.pad(config.softmax_scale * known / norm, (0, 2)).flatten(2)
    norm = functional.pad(norm, (0, 2), value=1.0).flatten(2).mT
    return Keys(pixels, norm, scale, score_bias(known, config.hidden_keys))


def score_bias(known: Tensor, hidden_keys: str) -> Tensor:
    """Return the bias of :class:`Keys` from the known keys, [B, 1, h, w], 1 or 0."""
    bias = functional.pad((1.0 - known) * OUT_OF_REACH, (0, 2), value=OUT_OF_REACH).flatten(2)
    hidden = (1.0 - known).sum(dim=(2, 3))
    if hidden_keys == "excluded":
        hidden = torch.zeros_like(hidden)
    return torch.cat([bias[..., :-1], hidden.log().clamp_min(LAST_RESORT)[..., None]], dim=2)


def patch_norms(features: Tensor, kernel_size: int) -> Tensor:
    """Return the length of each zero-padded k x k patch of [B, C, h, w]: [B, 1, h, w]."""
    squares = features.square().sum(dim=1, keepdim=True)
    means = functional.avg_pool2d(squares, kernel_size, 1, kernel_size // 2)
    return (means * kernel_size**2).clamp_min(SMALLEST_SQUARED_NORM).sqrt()


def diagonal_scores(pixels: Tensor, block: tuple[int, int, int], kernel_size: int) -> Tensor:
    """Return <patch p, patch n> for a block of queries p and all keys n.

    Args:
        pixels: [B, C, L], as in :class:`Keys`.
        block: the first row of queries, the number of rows, the pitch.
        kernel_size: of the patches.

    Returns:
        [B, rows * pitch, h * pitch]; any value at positions that are not patches.
    """
    top, rows, pitch = block
    overhang = kernel_size - 1
    start, stop = top * pitch, (top + rows + overhang) * pitch + overhang
    scores = torch.bmm(pixels[:, :, start:stop].mT, pixels)
    if overhang:
        scores = matched(scores, kernel_size, pitch)
    return scores


def blocks_of(batch: int, height: int, width: int, pairs: int) -> list[tuple[slice, int, int]]:
    """Split the queries of maps [B, C, h, w] into blocks that are matched at once.

    Args:
        batch: B.
        height: h.
        width: w.
        pairs: affinities in a block, at most as far as possible.

    Returns:
        The samples, the first row and the number of rows of each: some rows of one sample, or
        several samples whole.
    """
    pairs_per_row = height * (width + 2) ** 2
    rows = min(height, max(FEWEST_ROWS, pairs // pairs_per_row))
    samples = max(1, pairs // (pairs_per_row * rows)) if rows == height else 1
    return [
        (slice(first, first + samples), top, min(rows, height - top))
        for first in range(0, batch, samples)
        for top in range(0, height, rows)
    ]


def pairs_at_once(device: torch.device) -> int:
    """Return how many affinities to compute at once."""
    return PAIRS_PER_BLOCK if device.type == "cpu" else PAIRS_PER_BLOCK_ELSEWHERE


class AttentionTransfer(nn.Module):
    """Fill a map from its own patches, attended as one level deeper finds them alike (ATN)."""

    def __init__(
        self, channels: int, kernel_size: int, refined: bool, config: PENNetConfig
    ) -> None:
        """Build one ATN.

        Args:
            channels: of the map to be filled.
            kernel_size: of the patches compared, 1 or 3.
            refined: whether four dilated convolutions follow.
            config: the form of the attention.
        """
        super().__init__()
        self.config = config
        self.kernel_size = kernel_size
        self.refinement = nn.ModuleList(
            nn.Conv2d(channels, channels // 4, 3, padding=dilation, dilation=dilation)
            for dilation in (REFINEMENT_DILATIONS if refined else ())
        )

    def forward(self, shallow: Tensor, deeper: Tensor, mask: Tensor) -> Tensor:
        """Fill the shallower map and refine it.

        Args:
            shallow: [B, C, 2h, 2w], the map to inpaint, and the source of the patches.
            deeper: [B, C', h, w], filled already, where patches are compared.
            mask: [B, 1, H, W] at the image's size, 1 in the hole.

        Returns:
            [B, C, 2h, 2w].
        """
        filled = self.transfer(shallow, deeper, mask)
        if not self.refinement:
            return filled
        return torch.cat([functional.relu(conv(filled)) for conv in self.refinement], dim=1)

    def transfer(self, shallow: Tensor, deeper: Tensor, mask: Tensor) -> Tensor:
        """Fill the shallower map without refining it (Eq. 2 to 4); shapes as in ``forward``."""
        keys, (height, width) = self.match(shallow, deeper, mask)
        cells = as_cells(shallow, width + 2)
        filled = torch.zeros_like(cells)
        pairs = pairs_at_once(cells.device)
        for samples, top, rows in blocks_of(len(cells), height, width, pairs):
            place = slice(top * (width + 2), (top + rows + 1) * (width + 2) + 1)
            block = (top, rows, width + 2)
            filled[samples, place] += leanly(self._paste, keys.of(samples), cells[samples], block)
        return self._finish(from_cells(filled, height, width), shallow, mask)

    def weights(self, shallow: Tensor, deeper: Tensor, mask: Tensor) -> Tensor:
        """Return every query's attention to every key, for images of it; shapes as above.

        Returns:
            [B, h, w, h, w], queries first: the softmax, 0 for keys that touch the hole.
        """
        keys, (height, width) = self.match(shallow, deeper, mask)
        pitch = width + 2
        attention = self._attend(keys, (0, height, pitch))
        grid = attention.view(len(attention), height, pitch, height, pitch)
        return grid[:, :, :width, :, :width]

    def match(self, shallow: Tensor, deeper: Tensor, mask: Tensor) -> tuple[Keys, tuple[int, int]]:
        """Return the keys, and the size of the map they are of."""
        source = shallow[:, :, ::2, ::2] if self.config.attention == "same_layer" else deeper
        with torch.autocast(source.device.type, enabled=False):
            keys = lay_out(source, mask, self.kernel_size, self.config)
        return keys, (source.shape[2], source.shape[3])

    def _attend(self, keys: Keys, block: tuple[int, int, int]) -> Tensor:
        """Return the attention of a block, (top, rows, pitch): [B, rows * pitch, h * pitch]."""
        top, rows, pitch = block
        with torch.autocast(keys.pixels.device.type, enabled=False):
            scores = diagonal_scores(keys.pixels, block, self.kernel_size)
            if self.config.normalise_queries:
                scores = scores / keys.norm[:, top * pitch : (top + rows) * pitch]
            scores = torch.addcmul(keys.bias, scores, keys.scale)
            attention = torch.softmax(scores, dim=-1)
            if self.config.attention_floor:
                attention = attention.clamp_min(self.config.attention_floor)
                attention.view(*attention.shape[:2], -1, pitch)[..., -2:] = 0
        return attention

    def _paste(self, keys: Keys, cells: Tensor, block: tuple[int, int, int]) -> Tensor:
        """Return a block of queries' contribution to the cells of its rows and of the next row."""
        received = pasted(self._attend(keys, block), 2, block[2])
        return torch.bmm(received.to(cells.dtype), cells)

    def _finish(self, filled: Tensor, shallow: Tensor, mask: Tensor) -> Tensor:
        # A pixel inside is the sum of four patches, one at the border of two, a corner of one.
        filled = filled * (border_factor(filled) if self.config.overlap == "mean" else 1) / 4.0
        if self.config.filled == "hole":
            hole = shrink(mask, shallow.shape[2:], self.config.mask_resize).to(filled.dtype)
            filled = hole * filled + (1.0 - hole) * shallow
        return filled


def as_cells(features: Tensor, pitch: int) -> Tensor:
    """Cut a map [B, C, 2h, 2w], padded by 1, into 2 x 2 cells: [B, (h + 1) * pitch + 1, 4C].

    Patch n of 4 x 4 pixels at stride 2 is the cells n, n + 1, n + pitch, n + pitch + 1. Columns
    after the w + 1 cells of a row, and the last position, are zeros.
    """
    cells = functional.pixel_unshuffle(functional.pad(features, (1, 1, 1, 1)), 2)
    flat = functional.pad(cells, (0, pitch - cells.shape[3])).flatten(2)
    return functional.pad(flat, (0, 1)).mT


def from_cells(cells: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`as_cells` for a map of 2 * ``height`` by 2 * ``width``."""
    rows = cells[:, :-1].mT.reshape(len(cells), cells.shape[2], height + 1, -1)
    return functional.pixel_shuffle(rows[..., : width + 1], 2)[:, :, 1:-1, 1:-1]


def border_factor(features: Tensor) -> Tensor:
    """Return the factors of sums of overlapping patches: 1, 2 at a border, 4 in a corner."""
    rows, columns = (
        functional.pad(features.new_ones(side - 2), (1, 1), value=2.0)
        for side in features.shape[2:]
    )
    return rows[:, None] * columns


def leanly(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Call a function; if gradients are wanted keep only its arguments, and call it again then."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    result: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result


class PatchSwap(nn.Module):
    """Fill the hole of a map with its nearest known patches: the ablation of Table 6.

    This module has no parameters; the choice of a patch has no gradient, its content has.
    """

    def __init__(self, config: PENNetConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, shallow: Tensor, deeper: Tensor, mask: Tensor) -> Tensor:
        """Swap patches of 3 x 3 in the hole; the deeper map is ignored.

        Args:
            shallow: [B, C, h, w].
            deeper: not looked at.
            mask: [B, 1, H, W] at the image's size, 1 in the hole.

        Returns:
            [B, C, h, w]; unchanged outside the hole, and everywhere if no patch is known.
        """
        del deeper
        height, width = shallow.shape[2:]
        hole = shrink(at_least_float32(mask), shallow.shape[2:], self.config.mask_resize)
        with torch.no_grad(), torch.autocast(shallow.device.type, enabled=False):
            keys = lay_out(shallow, mask, 3, self.config)
            nearest = self.nearest(keys, height, width)
        swapped = swap_patches(shallow, nearest)
        fillable = (keys.scale > 0).any(dim=2)[:, :, None, None]
        hole = (hole * fillable).to(shallow.dtype)
        return hole * swapped + (1.0 - hole) * shallow

    def nearest(self, keys: Keys, height: int, width: int) -> Tensor:
        """Return each patch's most similar known patch (cosine): [B, h, w], flat with the pitch."""
        pitch, batch, pairs = width + 2, len(keys.pixels), pairs_at_once(keys.pixels.device)
        nearest = keys.pixels.new_zeros((batch, height, pitch), dtype=torch.long)
        for samples, top, rows in blocks_of(batch, height, width, pairs):
            some = keys.of(samples)
            scores = diagonal_scores(some.pixels, (top, rows, pitch), 3)
            scores = torch.addcmul(some.bias, scores, some.scale)
            best = scores[:, :, :-2].argmax(dim=2)  # the last two are not patches
            nearest[samples, top : top + rows] = best.view(-1, rows, pitch)
        return nearest[:, :, :width]


def swap_patches(features: Tensor, nearest: Tensor) -> Tensor:
    """Replace every 3 x 3 patch by another and average where they overlap.

    Args:
        features: [B, C, h, w].
        nearest: [B, h, w], the other patch's place, flat with a pitch of w + 2.
    """
    batch, channels, height, width = features.shape
    pixels = functional.pad(features, (1, 1, 1, 1)).flatten(2)
    places = nearest.flatten(1)[:, None].expand(-1, channels, -1)
    offsets = [row * (width + 2) + column for row in range(3) for column in range(3)]
    patches = torch.stack([pixels.gather(2, places + offset) for offset in offsets], dim=2)
    counts = functional.fold(patches.new_ones(1, 9, height * width), (height, width), 3, padding=1)
    sums = functional.fold(patches.flatten(1, 2), (height, width), 3, padding=1)
    return sums / counts


class Unfilled(nn.Module):
    """A skip connection as U-Net has it."""

    def forward(self, shallow: Tensor, deeper: Tensor, mask: Tensor) -> Tensor:
        """Return the map itself; the deeper one and the mask are ignored."""
        del deeper, mask
        return shallow
