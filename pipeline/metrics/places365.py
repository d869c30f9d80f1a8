"""The classifiers of scenes that come with Places365 (Zhou et al. 2018): ResNet-18 and ResNet-50.

Their inception score is a figure of PEN-Net's tables (PEN-Net, Eq. 11). The layers' names are
torchvision's, so that the public files ``resnet18_places365.pth.tar`` and
``resnet50_places365.pth.tar`` load as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from infill.pipeline.metrics.inception import class_probabilities

CLASSES = 365
SIDE_PX, CROP_PX = 256, 224
"""Images are resized to a square and cut at its centre, as in the authors' example."""
COLOUR_MEAN, COLOUR_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of colours in [0, 1], as in the training of the classifiers."""
WIDTHS = (64, 128, 256, 512)
"""Channels inside the blocks of each stage; every stage but the first halves the maps."""


@dataclass(frozen=True, kw_only=True)
class Depth:
    """What distinguishes the ResNets of one design."""

    blocks: tuple[int, ...]
    """Blocks in each stage."""
    kernels: tuple[int, ...]
    """Sides of a block's convolutions."""
    expansion: int
    """Channels after a block, as a multiple of the channels inside it."""


RESNETS = {
    "resnet18": Depth(blocks=(2, 2, 2, 2), kernels=(3, 3), expansion=1),
    "resnet50": Depth(blocks=(3, 4, 6, 3), kernels=(1, 3, 1), expansion=4),
}


class Block(nn.Module):
    """Two or three convolutions beside the identity, or beside a projection of another shape.

    The convolution of side 3 strides: the first one of ResNet-18, the middle one of ResNet-50.
    """

    def __init__(self, channels: int, width: int, stride: int, depth: Depth) -> None:
        super().__init__()
        out_channels, here = depth.expansion * width, channels
        strided = depth.kernels.index(3)
        for index, side in enumerate(depth.kernels):
            out = out_channels if index == len(depth.kernels) - 1 else width
            step = stride if index == strided else 1
            conv = nn.Conv2d(here, out, side, step, padding=side // 2, bias=False)
            self.add_module(f"conv{index + 1}", conv)
            self.add_module(f"bn{index + 1}", nn.BatchNorm2d(out))
            here = out
        self.links = len(depth.kernels)
        self.downsample = None
        if stride > 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, out_channels, H / stride, W / stride]."""
        main = features
        for index in range(1, self.links + 1):
            conv, norm = getattr(self, f"conv{index}"), getattr(self, f"bn{index}")
            main = norm(conv(main))
            if index < self.links:
                main = functional.relu(main)
        beside = features if self.downsample is None else self.downsample(features)
        return functional.relu(main + beside)


class PlacesClassifier(nn.Module):
    """A ResNet with 365 classes of scenes: features before the last layer, and that layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        depth = RESNETS[name]
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, (blocks, width) in enumerate(zip(depth.blocks, WIDTHS, strict=True), 1):
            built = []
            for number in range(blocks):
                stride = 2 if stage > 1 and number == 0 else 1
                built.append(Block(channels, width, stride, depth))
                channels = depth.expansion * width
            self.add_module(f"layer{stage}", nn.Sequential(*built))
        self.fc = nn.Linear(channels, CLASSES)
        self.register_buffer("mean", torch.tensor(COLOUR_MEAN)[:, None, None], persistent=False)
        self.register_buffer(
            "deviation", torch.tensor(COLOUR_DEVIATION)[:, None, None], persistent=False
        )
        self.requires_grad_(False).eval()

    mean: Tensor
    deviation: Tensor

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "PlacesClassifier":
        """Build the classifier that the tensors of a public file belong to.

        Raises:
            RuntimeError: if a tensor is missing, left over or of another shape.
        """
        network = cls("resnet50" if "layer1.0.conv3.weight" in tensors else "resnet18")
        own = network.state_dict().items()
        # The public files are of PyTorch 0.2, which had no batch counters; they are not used here.
        counters = {name: value for name, value in own if name.endswith("num_batches_tracked")}
        network.load_state_dict({**counters, **tensors})
        return network

    def forward(self, images: Tensor) -> Tensor:
        """Return features, [B, 512] or [B, 2048], of uint8 [B, H, W, 3] images of any size."""
        image = images.permute(0, 3, 1, 2).float() / 255
        if image.shape[2:] != (SIDE_PX, SIDE_PX):
            image = functional.interpolate(
                image, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False, antialias=True
            )
        edge = (SIDE_PX - CROP_PX) // 2
        image = image[:, :, edge : edge + CROP_PX, edge : edge + CROP_PX]
        features: Tensor = self.maps((image - self.mean) / self.deviation).mean(dim=(2, 3))
        return features

    def maps(self, image: Tensor) -> Tensor:
        """Return the last maps, [B, D, 7, 7] for normalised colours [B, 3, 224, 224]."""
        features = functional.relu(self.bn1(self.conv1(image)))
        features = functional.max_pool2d(features, 3, stride=2, padding=1)
        for stage in range(1, len(WIDTHS) + 1):
            features = getattr(self, f"layer{stage}")(features)
        return features

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probabilities of the scenes, [B, 365], from features [B, D]."""
        return class_probabilities(self.fc, features)
