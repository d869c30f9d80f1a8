"""YOLOv5-L trained to detect the objects of MS COCO: a teacher of Fig. 8, up to its second stage.

Names are those of the public files of version 6 and later (``yolov5l.pt``); the paper does not say
which of the sizes it takes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.spn.foreign_file import check_fit

WIDTHS = (64, 128, 256)
"""Channels at 1/2, 1/4 and 1/8 of the size."""
BLOCKS = (3, 6)
"""Bottlenecks of the first two stages."""


class Conv(nn.Module):
    """A convolution without bias, its norm, SiLU."""

    def __init__(
        self, channels: int, out: int, side: int, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        edge = side // 2 if padding is None else padding
        self.conv = nn.Conv2d(channels, out, side, stride, edge, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, features: Tensor) -> Tensor:
        """Return the activations."""
        return functional.silu(self.bn(self.conv(features)))


class Bottleneck(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels, 1)
        self.cv2 = Conv(channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Return maps of the same shape."""
        added: Tensor = features + self.cv2(self.cv1(features))
        return added


class C3(nn.Module):
    """Half of the channels through bottlenecks, half past them, then both mixed."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        half = channels // 2
        self.cv1 = Conv(channels, half, 1)
        self.cv2 = Conv(channels, half, 1)
        self.cv3 = Conv(channels, channels, 1)
        self.m = nn.Sequential(*(Bottleneck(half) for _ in range(blocks)))

    def forward(self, features: Tensor) -> Tensor:
        """Return maps of the same shape."""
        halves = [self.m(self.cv1(features)), self.cv2(features)]
        mixed: Tensor = self.cv3(torch.cat(halves, dim=1))
        return mixed


class YOLOv5(nn.Module):
    """The stem and the first two stages of YOLOv5-L."""

    def __init__(self) -> None:
        super().__init__()
        narrow, middle, wide = WIDTHS
        self.model = nn.ModuleList(
            [
                Conv(3, narrow, 6, 2, padding=2),
                Conv(narrow, middle, 3, 2),
                C3(middle, BLOCKS[0]),
                Conv(middle, wide, 3, 2),
                C3(wide, BLOCKS[1]),
            ]
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look at [B, 3, 8h, 8w] in [0, 1].

        Returns:
            Coarsest first: [B, 256, h, w], [B, 128, 2h, 2w] and the stem's [B, 64, 4h, 4w].
        """
        stem = self.model[0](image)
        middle = self.model[2](self.model[1](stem))
        coarse = self.model[4](self.model[3](middle))
        return coarse, middle, stem


def load_yolo(path: str | None, sha256: str | None) -> YOLOv5:
    """Read the first layers of a public file.

    Raises:
        ValueError: if there is no file, it is another one, or a tensor is missing or misshapen.
    """
    return check_fit(YOLOv5(), path, sha256, "detection", "YOLOv5-L")
