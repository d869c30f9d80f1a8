"""Borders of feature maps, mirrored or repeated, that keep the layout of channels.

PyTorch's own padding on a GPU reads and writes maps whose channels are outermost. Between
convolutions whose channels are innermost it costs two more copies of every map, and as many on the
way back.
"""

from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Mode = Literal["reflect", "replicate"]


class BorderedConv2d(nn.Conv2d):
    """A ``Conv2d`` whose ``padding_mode`` mirrors or repeats, with as many pixels on every side."""

    def forward(self, input: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, C', H', W']."""
        return self.convolve(bordered(input, self.reach, self.mode))

    def convolve(self, padded: Tensor) -> Tensor:
        """Convolve a map that has its border already."""
        return functional.conv2d(
            padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )

    @property
    def reach(self) -> int:
        """Pixels of border on each side."""
        reach = self.padding[0]
        assert isinstance(reach, int)
        return reach

    @property
    def mode(self) -> Mode:
        """How the border is filled."""
        return "reflect" if self.padding_mode == "reflect" else "replicate"


def bordered(features: Tensor, reach: int, mode: Mode) -> Tensor:
    """Pad every side of a map, which a backward pass does not need to keep.

    Args:
        features: [B, C, H, W].
        reach: pixels on each side.
        mode: "reflect" mirrors without the edge, "replicate" repeats the edge.

    Returns:
        [B, C, H + 2 reach, W + 2 reach], its channels laid out as those of ``features``.

    Raises:
        RuntimeError: if a mirrored border is not smaller than the map.
    """
    if torch.compiler.is_compiling():
        return functional.pad(features, (reach,) * 4, mode=mode)
    padded: Tensor = _Border.apply(features, reach, mode)  # type: ignore[no-untyped-call]
    return padded


class _Border(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, reach: int, mode: Mode) -> Tensor:
        ctx.reach, ctx.mode, ctx.size = reach, mode, features.shape[-2:]
        if _is_gathered(features):
            return _gathered(features, reach, mode)
        return functional.pad(features, (reach,) * 4, mode=mode)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        for axis, size in zip((2, 3), ctx.size, strict=True):
            gradient = _folded(gradient, axis, size, ctx.reach, ctx.mode)
        return gradient, None, None


def _is_gathered(features: Tensor) -> bool:
    """Return whether PyTorch's own padding would change the layout of a map."""
    return features.is_cuda and features.is_contiguous(memory_format=torch.channels_last)


def _gathered(features: Tensor, reach: int, mode: Mode) -> Tensor:
    """Pad by one kernel that reads each pixel's channels in a row.

    It writes into a tensor of its own, not a view, so that the next layer may change it in place.
    """
    rows, columns = (_sources(size, reach, mode, features.device) for size in features.shape[-2:])
    padded = torch.empty(
        (*features.shape[:2], len(rows), len(columns)),
        dtype=features.dtype,
        device=features.device,
        memory_format=torch.channels_last,
    )
    places = [None, rows[:, None], columns]
    torch.ops.aten.index.Tensor_out(
        features.permute(0, 2, 3, 1), places, out=padded.permute(0, 2, 3, 1)
    )
    return padded


@lru_cache(maxsize=512)
def _sources(size: int, reach: int, mode: Mode, device: torch.device) -> Tensor:
    """Return which pixel of a line each pixel of the padded line shows, [size + 2 reach]."""
    if mode == "reflect" and reach >= size:
        raise RuntimeError(f"a mirrored border of {reach} px needs a map of more than {size} px")
    places = torch.arange(-reach, size + reach, device=device)
    if mode == "replicate":
        return places.clamp(0, size - 1)
    return size - 1 - (size - 1 - places.abs()).abs()


def _folded(gradient: Tensor, axis: int, size: int, reach: int, mode: Mode) -> Tensor:
    """Add the gradients of one axis' borders to those of the pixels that they show."""
    inner = gradient.narrow(axis, reach, size).clone()
    before = gradient.narrow(axis, 0, reach)
    after = gradient.narrow(axis, reach + size, reach)
    if mode == "replicate":
        inner.select(axis, 0).add_(before.sum(axis))
        inner.select(axis, size - 1).add_(after.sum(axis))
    else:
        inner.narrow(axis, 1, reach).add_(before.flip(axis))
        inner.narrow(axis, size - 1 - reach, reach).add_(after.flip(axis))
    return inner
