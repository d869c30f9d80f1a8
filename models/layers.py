"""Blocks that at least two papers use: full precision where it counts, spectral normalisation."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def at_least_float32(features: Tensor) -> Tensor:
    """Return the tensor in float32 if it came in half precision; float32 and float64 as they are.

    Statistics, loss means and the last activation are computed on what this returns: eight bits
    of mantissa do not hold a mean over a feature map.
    """
    if features.dtype in (torch.bfloat16, torch.float16):
        return features.float()
    return features


def normalise_each(features: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Bring every channel of every image to mean 0 and variance 1 (instance normalisation).

    Args:
        features: [B, C, H, W]; the memory format is kept, which ``instance_norm`` does not.
        epsilon: added to the biased variance.

    Returns:
        The same shape, at least float32.
    """
    features = at_least_float32(features)
    variance, mean = torch.var_mean(features, dim=(2, 3), correction=0, keepdim=True)
    normalised: Tensor = (features - mean) * torch.rsqrt(variance + epsilon)
    return normalised


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
