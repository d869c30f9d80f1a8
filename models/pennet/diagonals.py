"""Sums along the diagonals of a matrix of affinities, and their adjoint.

Shifting a patch by one position shifts query and key alike: the affinity of two k x k patches is
the sum of k * k affinities of their pixels, all on one diagonal. So patches need not be unfolded,
neither to compare them nor to paste them.

Positions are flat, rows of a map ``pitch`` apart; the offsets of a window's k * k positions are
row * pitch + column.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def window_sums(matrix: Tensor, size: int, pitch: int) -> Tensor:
    """Return out[p, n] = sum of matrix[p + s, n + s] over the offsets s of a window.

    Args:
        matrix: [B, P, N].
        size: of the window, 2 or more.
        pitch: distance of two rows.

    Returns:
        [B, P - last, N - last], for the last offset of the window.
    """
    return _line_sums(_line_sums(matrix, size, 1), size, pitch)


def _line_sums(matrix: Tensor, size: int, stride: int) -> Tensor:
    height, width = (side - (size - 1) * stride for side in matrix.shape[1:])
    views = [matrix[:, s : s + height, s : s + width] for s in range(0, size * stride, stride)]
    total = views[0] + views[1]
    for view in views[2:]:
        total += view
    return total


def surrounded(matrix: Tensor, size: int, pitch: int) -> Tensor:
    """Return a matrix with zeros on every side, as many as the last offset of a window."""
    last = (size - 1) * (pitch + 1)
    return functional.pad(matrix, (last, last, last, last))


class _Match(torch.autograd.Function):
    """:func:`matched`; by slices its gradient would fill one large matrix per offset."""

    @staticmethod
    def forward(ctx: Any, affinities: Tensor, size: int, pitch: int) -> Tensor:
        ctx.window = size, pitch
        return window_sums(affinities, size, pitch)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return window_sums(surrounded(gradient, *ctx.window), *ctx.window), None, None


class _Paste(torch.autograd.Function):
    """:func:`pasted`, likewise."""

    @staticmethod
    def forward(ctx: Any, attention: Tensor, size: int, pitch: int) -> Tensor:
        ctx.window = size, pitch
        return _pasted(attention, size, pitch)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        sums = window_sums(gradient, *ctx.window)
        leave_out(sums, ctx.window[1])
        return sums, None, None


def matched(affinities: Tensor, size: int, pitch: int) -> Tensor:
    """Return the affinities of patches from those of pixels: :func:`window_sums`, trainable."""
    if _wants_lean_gradient(affinities):
        sums: Tensor = _Match.apply(affinities, size, pitch)  # type: ignore[no-untyped-call]
        return sums
    return window_sums(affinities, size, pitch)


def pasted(attention: Tensor, size: int, pitch: int) -> Tensor:
    """Return the attention of cells to cells from the attention of patches to patches.

    Args:
        attention: [B, rows * pitch, N]; values at positions that are not patches are ignored.
        size: of a patch, in cells.
        pitch: distance of two rows; the last two positions of each are not patches.

    Returns:
        out[p + s, n + s] = sum of attention[p, n] over the offsets s of a patch:
        [B, rows * pitch + last, N + last] for the last offset.
    """
    if _wants_lean_gradient(attention):
        sums: Tensor = _Paste.apply(attention, size, pitch)  # type: ignore[no-untyped-call]
        return sums
    return _pasted(attention, size, pitch)


def _pasted(attention: Tensor, size: int, pitch: int) -> Tensor:
    last = (size - 1) * (pitch + 1)
    padded = surrounded(attention, size, pitch)
    leave_out(padded[:, last:-last, last:-last], pitch)
    return window_sums(padded, size, pitch)


def leave_out(attention: Tensor, pitch: int) -> None:
    """Set to 0, in place, the two positions after each row of queries, and the last key.

    Other keys after a row have no attention anyway; the last one represents all hidden keys.
    """
    # An assigned 0 would be copied to a GPU each time.
    attention[:, pitch - 2 :: pitch].zero_()
    attention[:, pitch - 1 :: pitch].zero_()
    attention[:, :, -1].zero_()


def _wants_lean_gradient(matrix: Tensor) -> bool:
    # A compiler fuses the gradient of slices by itself.
    return torch.is_grad_enabled() and matrix.requires_grad and not torch.compiler.is_compiling()
