"""HRNetV2-W48 trained to segment ADE20K: a teacher of Fig. 8, with its public layer names.

The file is the encoder of the MIT scene-parsing repository (``ade20k-hrnetv2-c1``).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.spn.foreign_file import check_fit
from infill.models.vgg import COLOUR_DEVIATION, COLOUR_MEAN

WIDTHS = (48, 96, 192, 384)
"""Channels of the branches, at 1/4, 1/8, 1/16 and 1/32 of the size."""
MODULES = (1, 4, 3)
"""Modules of the stages with two, three and four branches."""
BLOCKS = 4
EXPANSION = 4
STEM = 64


class ConvNorm(nn.Sequential):
    """A convolution without bias and its norm, with ReLU or without."""

    def __init__(self, channels: int, out: int, side: int, stride: int, active: bool) -> None:
        super().__init__(
            nn.Conv2d(channels, out, side, stride, padding=side // 2, bias=False),
            nn.BatchNorm2d(out),
            *([nn.ReLU()] if active else []),
        )


class Block(nn.Module):
    """Convolutions beside the identity, or beside a projection where the width changes."""

    def __init__(self, channels: int, width: int, sides: tuple[int, ...], expansion: int) -> None:
        super().__init__()
        here, out = channels, expansion * width
        for index, side in enumerate(sides, 1):
            wide = out if index == len(sides) else width
            self.add_module(f"conv{index}", nn.Conv2d(here, wide, side, 1, side // 2, bias=False))
            self.add_module(f"bn{index}", nn.BatchNorm2d(wide))
            here = wide
        self.links = len(sides)
        self.downsample = None if channels == out else ConvNorm(channels, out, 1, 1, active=False)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, out, H, W]."""
        main = features
        for index in range(1, self.links + 1):
            main = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(main))
            main = functional.relu(main) if index < self.links else main
        beside = features if self.downsample is None else self.downsample(features)
        return functional.relu(main + beside)


class Exchange(nn.Module):
    """Branches of one resolution each, whose outputs are then summed at every resolution."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(Block(width, width, (3, 3), 1) for _ in range(BLOCKS)))
            for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the maps of every branch, largest first."""
        maps = [branch(each) for branch, each in zip(self.branches, maps, strict=True)]
        fused = []
        for target, paths in enumerate(self.fuse_layers):
            size = maps[target].shape[2:]
            total = torch.zeros_like(maps[target])
            assert isinstance(paths, nn.ModuleList)
            for source, path in enumerate(paths):
                moved: Tensor = path(maps[source])
                if source > target:
                    moved = functional.interpolate(
                        moved, size=size, mode="bilinear", align_corners=False
                    )
                total = total + moved
            fused.append(functional.relu(total))
        return fused


def _path(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
    """Return the layers from one branch to another: none, a projection, or halvings."""
    if source == target:
        return nn.Identity()
    if source > target:
        return ConvNorm(widths[source], widths[target], 1, 1, active=False)
    halvings = []
    for level in range(source + 1, target + 1):
        last = level == target
        out = widths[target] if last else widths[source]
        halvings.append(ConvNorm(widths[source], out, 3, 2, active=not last))
    return nn.Sequential(*halvings)


class HRNet(nn.Module):
    """The encoder without its head: 65,325,120 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM)
        wide = EXPANSION * STEM
        self.layer1 = nn.Sequential(
            *(Block(STEM if n == 0 else wide, STEM, (1, 3, 1), EXPANSION) for n in range(BLOCKS))
        )
        first = ConvNorm(wide, WIDTHS[0], 3, 1, active=True)
        self.transition1 = nn.ModuleList([first, _halved(wide, WIDTHS[1])])
        self.transition2 = nn.ModuleList([*_identities(2), _halved(WIDTHS[1], WIDTHS[2])])
        self.transition3 = nn.ModuleList([*_identities(3), _halved(WIDTHS[2], WIDTHS[3])])
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(*(Exchange(WIDTHS[:branches]) for _ in range(modules)))
            for branches, modules in enumerate(MODULES, 2)
        )
        self.register_buffer("mean", torch.tensor(COLOUR_MEAN)[:, None, None], persistent=False)
        self.register_buffer(
            "deviation", torch.tensor(COLOUR_DEVIATION)[:, None, None], persistent=False
        )

    mean: Tensor
    deviation: Tensor

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look at [B, 3, 8h, 8w] in [0, 1].

        Returns:
            Coarsest first: [B, 96, h, w], [B, 48, 2h, 2w] and the stem's [B, 64, 4h, 4w].
        """
        stem = functional.relu(self.bn1(self.conv1((image - self.mean) / self.deviation)))
        features = functional.relu(self.bn2(self.conv2(stem)))
        features = self.layer1(features)
        maps = [change(features) for change in self.transition1]
        maps = self.stage2(maps)
        maps = self.stage3([*maps, self.transition2[-1](maps[-1])])
        maps = self.stage4([*maps, self.transition3[-1](maps[-1])])
        return maps[1], maps[0], stem


def _halved(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(ConvNorm(channels, out, 3, 2, active=True))


def _identities(count: int) -> list[nn.Module]:
    return [nn.Identity() for _ in range(count)]


def load_hrnet(path: str | None, sha256: str | None) -> HRNet:
    """Read the public encoder.

    Raises:
        ValueError: if there is no file, it is another one, or a tensor is missing or misshapen.
    """
    return check_fit(HRNet(), path, sha256, "segmentation", "HRNetV2-W48's encoder of ADE20K")
