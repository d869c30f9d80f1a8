"""Inception-v3 as FID uses it: the TensorFlow network of 2015 with 1008 classes.

The layers' names are torchvision's, so that the public state dict of that network (the file that
pytorch-fid publishes as ``pt_inception-2015-12-05-6726825d.pth``) loads as it is. It differs from
the network of the paper (Szegedy et al. 2016) in its pooling branches, see :class:`Block`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 2048
CLASSES = 1008
SIDE = 299
"""Input side in pixels; images are resized bilinearly, as pytorch-fid does."""

Size = int | tuple[int, int]


def class_probabilities(
    classifier: nn.Linear, features: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the probabilities of a network's classes, [B, C], from its features [B, D]."""
    logits = classifier(torch.from_numpy(features).float().to(classifier.weight.device))
    found: NDArray[np.float64] = logits.double().softmax(dim=1).cpu().numpy()
    return found


class ConvNormReLU(nn.Module):
    """A convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self, channels: int, out_channels: int, size: Size, stride: int = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, features: Tensor) -> Tensor:
        """Return the activations."""
        return functional.relu(self.bn(self.conv(features)))


class Block(nn.Module):
    """Parallel branches. Each is a chain of named convolutions; one pools first.

    Args:
        channels: number of input channels.
        branches: chains; each link is (name, out_channels, size, stride).
        forks: names of links that split: both halves have the same input and are joined.
        pooling: "mean" leaves the padding out of its averages, as TensorFlow does; "max" of stride
            1 is used in the last block only; "shrink" is a max of stride 2 without convolution.
    """

    def __init__(
        self,
        channels: int,
        branches: Sequence[Sequence[tuple[str, int, Size, int]]],
        pooling: str,
        forks: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.chains = [[name for name, *_ in branch] for branch in branches]
        self.forks = frozenset(forks)
        for branch in branches:
            here = channels
            for name, out_channels, size, stride in branch:
                padding = 0 if stride == 2 else _same(size)
                if name in self.forks:
                    wide, tall = ((1, 3), (0, 1)), ((3, 1), (1, 0))
                    for suffix, (window, edge) in zip("ab", (wide, tall), strict=True):
                        link = ConvNormReLU(here, out_channels, window, padding=edge)
                        self.add_module(name + suffix, link)
                    here = 2 * out_channels
                else:
                    self.add_module(name, ConvNormReLU(here, out_channels, size, stride, padding))
                    here = out_channels

    def forward(self, features: Tensor) -> Tensor:
        """Return all branches, joined along the channels."""
        joined = []
        for chain in self.chains:
            branch = self._pooled(features) if chain[0] == "branch_pool" else features
            for name in chain:
                branch = self._link(name, branch)
            joined.append(branch)
        if self.pooling == "shrink":
            joined.append(functional.max_pool2d(features, 3, stride=2))
        return torch.cat(joined, dim=1)

    def _link(self, name: str, features: Tensor) -> Tensor:
        if name not in self.forks:
            linked: Tensor = self.get_submodule(name)(features)
            return linked
        halves = [self.get_submodule(name + suffix)(features) for suffix in "ab"]
        return torch.cat(halves, dim=1)

    def _pooled(self, features: Tensor) -> Tensor:
        if self.pooling == "max":
            return functional.max_pool2d(features, 3, stride=1, padding=1)
        return functional.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)


def _same(size: Size) -> Size:
    return size // 2 if isinstance(size, int) else (size[0] // 2, size[1] // 2)


def _block_a(channels: int, pool_channels: int) -> Block:
    return Block(
        channels,
        [
            [("branch1x1", 64, 1, 1)],
            [("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 1)],
            [
                ("branch3x3dbl_1", 64, 1, 1),
                ("branch3x3dbl_2", 96, 3, 1),
                ("branch3x3dbl_3", 96, 3, 1),
            ],
            [("branch_pool", pool_channels, 1, 1)],
        ],
        pooling="mean",
    )


def _block_b(channels: int) -> Block:
    return Block(
        channels,
        [
            [("branch3x3", 384, 3, 2)],
            [
                ("branch3x3dbl_1", 64, 1, 1),
                ("branch3x3dbl_2", 96, 3, 1),
                ("branch3x3dbl_3", 96, 3, 2),
            ],
        ],
        pooling="shrink",
    )


def _block_c(channels: int, middle: int) -> Block:
    wide, tall = (1, 7), (7, 1)
    return Block(
        channels,
        [
            [("branch1x1", 192, 1, 1)],
            [
                ("branch7x7_1", middle, 1, 1),
                ("branch7x7_2", middle, wide, 1),
                ("branch7x7_3", 192, tall, 1),
            ],
            [
                ("branch7x7dbl_1", middle, 1, 1),
                ("branch7x7dbl_2", middle, tall, 1),
                ("branch7x7dbl_3", middle, wide, 1),
                ("branch7x7dbl_4", middle, tall, 1),
                ("branch7x7dbl_5", 192, wide, 1),
            ],
            [("branch_pool", 192, 1, 1)],
        ],
        pooling="mean",
    )


def _block_d(channels: int) -> Block:
    return Block(
        channels,
        [
            [("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 2)],
            [
                ("branch7x7x3_1", 192, 1, 1),
                ("branch7x7x3_2", 192, (1, 7), 1),
                ("branch7x7x3_3", 192, (7, 1), 1),
                ("branch7x7x3_4", 192, 3, 2),
            ],
        ],
        pooling="shrink",
    )


def _block_e(channels: int, pooling: str) -> Block:
    return Block(
        channels,
        [
            [("branch1x1", 320, 1, 1)],
            [("branch3x3_1", 384, 1, 1), ("branch3x3_2", 384, 3, 1)],
            [
                ("branch3x3dbl_1", 448, 1, 1),
                ("branch3x3dbl_2", 384, 3, 1),
                ("branch3x3dbl_3", 384, 3, 1),
            ],
            [("branch_pool", 192, 1, 1)],
        ],
        pooling=pooling,
        forks=("branch3x3_2", "branch3x3dbl_3"),
    )


class Inception(nn.Module):
    """Inception-v3: features before the last layer, and that layer."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNormReLU(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNormReLU(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNormReLU(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNormReLU(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNormReLU(80, 192, 3)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, "mean")
        self.Mixed_7c = _block_e(2048, "max")
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, 2048] features of uint8 [B, H, W, 3] images of any size."""
        image = images.permute(0, 3, 1, 2).float() / 255
        size = (SIDE, SIDE)
        image = functional.interpolate(image, size, mode="bilinear", align_corners=False)
        features: Tensor = self.maps(2 * image - 1).mean(dim=(2, 3))
        return features

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the classes' probabilities, [B, 1008], from features [B, 2048]."""
        return class_probabilities(self.fc, features)

    def maps(self, image: Tensor) -> Tensor:
        """Return the last maps, [B, 2048, 8, 8] for [B, 3, 299, 299] in [-1, 1]."""
        features = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(image)))
        features = functional.max_pool2d(features, 3, stride=2)
        features = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(features))
        features = functional.max_pool2d(features, 3, stride=2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            block: Tensor = self.get_submodule(f"Mixed_{name}")(features)
            features = block
        return features
