"""Sums along the diagonals of a matrix of affinities, and their adjoint.

Shifting a patch by one position shifts query and key alike: the affinity of two k x k patches is
the sum of k * k affinities of their pixels, all on one diagonal. So patches need not be unfolded,
neither to compare them nor to paste them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def gathered(matrix: Tensor, offsets: Sequence[int]) -> Tensor:
    """Return out[p, n] = sum of matrix[p + s, n + s] over the offsets s.

    Args:
        matrix: [B, P, N].
        offsets: at least two, ascending from 0.

    Returns:
        [B, P - last, N - last].
    """
    height, width = (side - offsets[-1] for side in matrix.shape[1:])
    views = [matrix[:, s : s + height, s : s + width] for s in offsets]
    total = views[0] + views[1]
    for view in views[2:]:
        total += view
    return total


def scattered(matrix: Tensor, offsets: Sequence[int]) -> Tensor:
    """Return out[p + s, n + s] = sum of matrix[p, n] over the offsets s: the adjoint.

    Args:
        matrix: [B, P, N].
        offsets: at least two, ascending from 0.

    Returns:
        [B, P + last, N + last].
    """
    batch, height, width = matrix.shape
    total = matrix.new_zeros(batch, height + offsets[-1], width + offsets[-1])
    for s in offsets:
        total[:, s : s + height, s : s + width] += matrix
    return total


class _Gather(torch.autograd.Function):
    """:func:`gathered`, whose gradient by slices would fill one large matrix per offset."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, offsets: tuple[int, ...]) -> Tensor:
        ctx.offsets = offsets
        return gathered(matrix, offsets)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return scattered(gradient, ctx.offsets), None


class _Scatter(torch.autograd.Function):
    """:func:`scattered`, with :func:`gathered` as its gradient."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, offsets: tuple[int, ...]) -> Tensor:
        ctx.offsets = offsets
        return scattered(matrix, offsets)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gathered(gradient, ctx.offsets), None


def gather_diagonals(matrix: Tensor, offsets: tuple[int, ...]) -> Tensor:
    """Return :func:`gathered`, with its lean gradient where one is asked for."""
    if _wants_lean_gradient(matrix):
        total: Tensor = _Gather.apply(matrix, offsets)  # type: ignore[no-untyped-call]
        return total
    return gathered(matrix, offsets)


def scatter_diagonals(matrix: Tensor, offsets: tuple[int, ...]) -> Tensor:
    """Return :func:`scattered`, with its lean gradient where one is asked for."""
    if _wants_lean_gradient(matrix):
        total: Tensor = _Scatter.apply(matrix, offsets)  # type: ignore[no-untyped-call]
        return total
    return scattered(matrix, offsets)


def _wants_lean_gradient(matrix: Tensor) -> bool:
    # A compiler fuses the gradient of slices by itself.
    return torch.is_grad_enabled() and matrix.requires_grad and not torch.compiler.is_compiling()
