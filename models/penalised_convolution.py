"""Convolutions of discriminators whose slopes are penalised: gradients of gradients at full speed.

PyTorch writes the second derivative of a convolution as one with a kernel as large as a map, and
that of a grouped convolution as a loop over the groups: 512 small convolutions a layer of MI-GAN.
A convolution is linear in its maps and in its weight, so its derivatives of every order are itself
and its two first derivatives, for which there are fast kernels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Geometry(NamedTuple):
    """How a kernel moves over a map, and how many groups of maps do not meet."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1


def convolve(features: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Convolve as ``conv2d`` does, in the type that autocast asks for.

    Args:
        features: [B, C, H, W].
        weight: [C', C / groups, k, k].
        bias: [C'], or None.
        geometry: stride, padding with zeros, dilation, groups.

    Returns:
        [B, C', H', W'].
    """
    kind = features.device.type
    if torch.is_autocast_enabled(kind):
        low = torch.get_autocast_dtype(kind)
        features, weight = features.to(low), weight.to(low)
        bias = None if bias is None else bias.to(low)
    found = _apply(_Convolution, features, weight, geometry)
    return found if bias is None else found + bias[:, None, None]


class PenalisedConv2d(nn.Conv2d):
    """A ``Conv2d`` for a loss that has slopes by its maps; padded with zeros."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError("PenalisedConv2d pads with a number of zeros")
        return convolve(
            input, weight, bias, Geometry(self.stride, self.padding, self.dilation, self.groups)
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.geometry = geometry
        with torch.autocast(features.device.type, enabled=False):
            return functional.conv2d(features, weight, None, *geometry)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        return _needed(
            ctx,
            lambda: _apply(_ByFeatures, slope, weight, ctx.geometry, features.shape),
            lambda: _apply(_ByWeight, features, slope, ctx.geometry, weight.shape),
        )


class _ByFeatures(torch.autograd.Function):
    """The derivative by the maps: linear in the slope at the output and in the weight."""

    @staticmethod
    def forward(
        ctx: Any, slope: Tensor, weight: Tensor, geometry: Geometry, shape: torch.Size
    ) -> Tensor:
        ctx.save_for_backward(slope, weight)
        ctx.geometry = geometry
        return _derivative(slope, slope.new_empty(shape), weight, geometry, by_weight=False)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        slope, weight = ctx.saved_tensors
        return _needed(
            ctx,
            lambda: _apply(_Convolution, given, weight, ctx.geometry),
            lambda: _apply(_ByWeight, given, slope, ctx.geometry, weight.shape),
        )


class _ByWeight(torch.autograd.Function):
    """The derivative by the weight: linear in the maps and in the slope at the output."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, slope: Tensor, geometry: Geometry, shape: torch.Size
    ) -> Tensor:
        ctx.save_for_backward(features, slope)
        ctx.geometry = geometry
        return _derivative(slope, features, features.new_empty(shape), geometry, by_weight=True)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        features, slope = ctx.saved_tensors
        return _needed(
            ctx,
            lambda: _apply(_ByFeatures, slope, given, ctx.geometry, features.shape),
            lambda: _apply(_Convolution, features, given, ctx.geometry),
        )


def _apply(function: type[torch.autograd.Function], *given: Any) -> Tensor:
    found: Tensor = function.apply(*given)  # type: ignore[no-untyped-call]
    return found


def _needed(
    ctx: Any, by_first: Callable[[], Tensor], by_second: Callable[[], Tensor]
) -> tuple[Tensor | None, ...]:
    """Return the derivatives by the two tensors that are asked for, and None by what follows."""
    needed = ctx.needs_input_grad
    found = by_first() if needed[0] else None, by_second() if needed[1] else None
    return found + (None,) * (len(needed) - 2)


def _derivative(
    slope: Tensor, features: Tensor, weight: Tensor, geometry: Geometry, by_weight: bool
) -> Tensor:
    """Return one derivative of a convolution; what it is taken by counts by its shape alone."""
    stride, padding, dilation, groups = geometry
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        slope,
        features,
        weight,
        None,
        stride,
        padding,
        dilation,
        False,
        (0, 0),
        groups,
        (not by_weight, by_weight, False),
    )
    return found[by_weight]
