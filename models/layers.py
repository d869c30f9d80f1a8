"""Layers that at least two papers use: full precision where needed, spectral normalisation."""

import itertools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "SpectralConv2d",
    "at_least_float32",
    "at_rest",
    "beside",
    "channels_innermost",
    "doubled",
    "normalise_each",
]

Network = TypeVar("Network", bound=nn.Module)


def at_rest(network: Network) -> Network:
    """Freeze a network: it is in evaluation mode and not trained.

    Its convolutions keep channels innermost.
    """
    return channels_innermost(network).eval().requires_grad_(False)


def channels_innermost(network: Network) -> Network:
    """Lay out a network's kernels so that its maps have their channels innermost, and return it.

    Up to a third faster on CPUs, and the layout of tensor cores.
    """
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.dim() == 4:
            # Not Module.to, which cannot convert tensors without data (FakeTensorMode).
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return network


def beside(network: Network, other: nn.Module) -> Network:
    """Move a network to the device of another one's parameters, unless it is there; return it."""
    device = next(other.parameters()).device
    tensors = itertools.chain(network.parameters(), network.buffers())
    if any(tensor.device != device for tensor in tensors):
        network.to(device)
    return network


def at_least_float32(features: Tensor) -> Tensor:
    """Return the tensor in float32 if it came in half precision; float32 and float64 as they are.

    Statistics, loss means and the last activation are computed on the result: eight bits of
    mantissa do not hold a mean over a feature map.
    """
    if features.dtype in (torch.bfloat16, torch.float16):
        return features.float()
    return features


def normalise_each(features: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Bring every channel of every image to mean 0 and variance 1 (instance normalisation).

    Unlike ``instance_norm`` it keeps the memory format, and nothing but its result for the backward
    pass, which the modulation of the result keeps anyway.

    Args:
        features: [B, C, H, W]; statistics are taken in float32 at least.
        epsilon: added to the biased variance.

    Returns:
        The same shape and type.
    """
    normalised: Tensor = _Normalise.apply(features, epsilon)  # type: ignore[no-untyped-call]
    return normalised


class _Normalise(torch.autograd.Function):
    """Instance normalisation whose gradient is written in terms of its result."""

    @staticmethod
    def forward(context: Any, features: Tensor, epsilon: float) -> Tensor:
        full = at_least_float32(features)
        variance, mean = torch.var_mean(full, dim=(2, 3), correction=0, keepdim=True)
        scale = torch.rsqrt(variance + epsilon)
        normalised = ((full - mean) * scale).to(features.dtype)
        context.save_for_backward(normalised, scale)
        return normalised

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Take mean and correlation with the result out of the gradient, then scale."""
        normalised, scale = context.saved_tensors
        full, gradient = at_least_float32(normalised), at_least_float32(gradient)
        mean = gradient.mean(dim=(2, 3), keepdim=True)
        correlation = (gradient * full).mean(dim=(2, 3), keepdim=True)
        out = (gradient - mean - full * correlation) * scale
        return out.to(normalised.dtype), None


class SpectralConv2d(nn.Conv2d):
    """A convolution whose weight is divided by an estimate of its largest singular value.

    One power iteration per training forward, on the weight as a matrix of out-channel rows. The
    vectors ``u`` [C_out] and ``v`` [C_in * k * k] are buffers; the weight itself stays unscaled.
    """

    u: Tensor
    v: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        epsilon: float = 1e-12,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias
        )
        self.epsilon = epsilon
        rows, columns = out_channels, in_channels * kernel_size**2
        self.register_buffer("u", functional.normalize(torch.randn(rows), dim=0, eps=epsilon))
        self.register_buffer("v", functional.normalize(torch.randn(columns), dim=0, eps=epsilon))

    def forward(self, features: Tensor) -> Tensor:
        """Convolve [B, C_in, H, W] with the normalised weight."""
        weight = self.normalised_weight()
        return functional.conv2d(features, weight, self.bias, self.stride, self.padding)

    def normalised_weight(self) -> Tensor:
        """Return the weight over its spectral norm; in training after one power iteration."""
        matrix = self.weight.flatten(1)
        with torch.autocast(matrix.device.type, enabled=False):
            if self.training:
                self._iterate(matrix.detach())
            # Copies: a second forward before this one's backward would change the buffers.
            norm = torch.dot(self.u.clone(), torch.mv(matrix, self.v.clone()))
        return torch.div(self.weight, norm)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        right = functional.normalize(torch.mv(matrix.t(), self.u), dim=0, eps=self.epsilon)
        self.v.copy_(right)
        left = functional.normalize(torch.mv(matrix, right), dim=0, eps=self.epsilon)
        self.u.copy_(left)


def doubled(features: Tensor) -> Tensor:
    """Return the map at twice its size, bilinearly, corners on corners."""
    return functional.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=True)
