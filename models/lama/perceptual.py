"""The eyes of LaMa's perceptual loss: a dilated ResNet-50 that has learned to segment ADE20K.

Layers and names are those of the public encoder (three convolutions before the pooling, the last
two stages dilated instead of halving), so that its state dict is taken as it is.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_rest
from infill.models.seeding import seeded
from infill.models.vgg import COLOUR_DEVIATION, COLOUR_MEAN, RANDOM
from infill.models.weight_files import network_of, read_weights, sha256_of

STAGES = ((3, 64, 1, 1), (4, 128, 2, 1), (6, 256, 1, 2), (3, 512, 1, 4))
"""Blocks, width, stride and dilation of each stage."""
EXPANSION = 4


class Bottleneck(nn.Module):
    """Three convolutions beside the identity, or beside a projection where the shape changes."""

    def __init__(self, wide: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        out = EXPANSION * width
        self.conv1 = nn.Conv2d(wide, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1 or wide != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, 4W, H / s, W / s]."""
        main = functional.relu(self.bn1(self.conv1(features)))
        main = functional.relu(self.bn2(self.conv2(main)))
        main = self.bn3(self.conv3(main))
        beside = features if self.downsample is None else self.downsample(features)
        return functional.relu(main + beside)


class DilatedResNet(nn.Module):
    """The encoder; frozen, and always in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        for index, (wide, narrow, stride) in enumerate(((3, 64, 2), (64, 64, 1), (64, 128, 1)), 1):
            conv = nn.Conv2d(wide, narrow, 3, stride, padding=1, bias=False)
            self.add_module(f"conv{index}", conv)
            self.add_module(f"bn{index}", nn.BatchNorm2d(narrow))
        wide = 128
        for index, (blocks, width, stride, dilation) in enumerate(STAGES, 1):
            stage = []
            for block in range(blocks):
                # A stage that would halve is dilated half as far in its first block.
                first = max(1, dilation // 2) if block == 0 else dilation
                stage.append(Bottleneck(wide, width, stride if block == 0 else 1, first))
                wide = EXPANSION * width
            self.add_module(f"layer{index}", nn.Sequential(*stage))
        self.register_buffer("mean", torch.tensor(COLOUR_MEAN)[:, None, None], persistent=False)
        self.register_buffer(
            "deviation", torch.tensor(COLOUR_DEVIATION)[:, None, None], persistent=False
        )
        at_rest(self)

    mean: Tensor
    deviation: Tensor

    def forward(self, colours: Tensor) -> tuple[Tensor, ...]:
        """Return the maps after each of the four stages for [B, 3, H, W] in [0, 1]."""
        features = (colours - self.mean) / self.deviation
        for index in (1, 2, 3):
            conv, norm = getattr(self, f"conv{index}"), getattr(self, f"bn{index}")
            features = functional.relu(norm(conv(features)))
        features = functional.max_pool2d(features, 3, stride=2, padding=1)
        maps = []
        for index in range(1, len(STAGES) + 1):
            features = getattr(self, f"layer{index}")(features)
            maps.append(features)
        return tuple(maps)


def load_encoder(weights: str | None, sha256: str | None) -> DilatedResNet:
    """Build the encoder with the public weights.

    Args:
        weights: local path of its state dict, or "random" for one nobody trained.
        sha256: the file's expected digest in hexadecimal; not compared if None.

    Raises:
        ValueError: if there is no file, it is another one, or a tensor is missing or misshapen.
    """
    if weights == RANDOM:
        device = torch.get_default_device()
        with seeded(0), torch.device("cpu"):
            network = DilatedResNet()
        return network if device.type == "cpu" else network.to(device)
    if weights is None:
        raise ValueError(
            "the perceptual loss needs perceptual_weights, the path of the segmentation encoder's "
            f"state dict (ResNet-50 dilated, ADE20K); give {RANDOM!r} for one nobody trained, or "
            "perceptual_weight 0 to do without"
        )
    file = Path(weights).expanduser()
    if not file.is_file():
        raise ValueError(f"perceptual_weights: there is no file {file}")
    if sha256 is not None and (found := sha256_of(file)) != sha256.lower():
        raise ValueError(f"{file} has the SHA-256 {found}, not {sha256}; get the file again")
    network, state = DilatedResNet(), network_of(read_weights(file))
    wrong = [
        name
        for name, tensor in network.state_dict().items()
        if name not in state or state[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(
            f"{file} is not that encoder: {len(wrong)} tensors are missing or misshapen, first "
            f"{wrong[0]}"
        )
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network
