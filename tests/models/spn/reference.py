"""SPN's generator as its authors laid it out: every convolution alone, every pad and sum a copy.

The tests compare the model with this; the benchmarks call it the naive form.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.spn.blocks import (
    DenseBlock,
    MergingBlock,
    RegionNorm,
    ResidualBlock,
    Spade,
    SpadeResidualBlock,
    SpadeRisingBlock,
)
from models.spn.prior import DenseTrunk


def modulated(spade: Spade, features: Tensor, prior: Tensor) -> Tensor:
    hidden = functional.relu(spade.hidden(prior))
    return functional.instance_norm(features) * (1 + spade.gain(hidden)) + spade.shift(hidden)


def filled_instance_norm(features: Tensor, region: Tensor) -> Tensor:
    """Fill the rest with the region's mean, normalise the whole map, scale by sqrt(share)."""
    part = region.to(features.dtype)
    area = part.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean = (features * part).sum(dim=(2, 3), keepdim=True) / area
    whole = functional.instance_norm(features * part + (1 - part) * mean)
    return whole * (area / part[0, 0].numel()).sqrt() * part


class FilledRegionNorm(nn.Module):
    def __init__(self, fast: RegionNorm) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, features: Tensor, hole: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        inside = filled_instance_norm(features, hole) * (1 + self.fast.hole_gain.view(shape))
        outside = filled_instance_norm(features, ~hole) * (1 + self.fast.known_gain.view(shape))
        inside = inside + self.fast.hole_shift.view(shape)
        return inside + outside + self.fast.known_shift.view(shape)


class PlainMiddle(nn.Module):
    def __init__(self, fast: SpadeResidualBlock) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, features: Tensor, prior: Tensor) -> Tensor:
        main = self.fast.conv1(functional.relu(modulated(self.fast.spade1, features, prior)))
        main = self.fast.conv2(functional.relu(modulated(self.fast.spade2, main, prior)))
        return features + main


class PlainRise(nn.Module):
    def __init__(self, fast: SpadeRisingBlock) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, features: Tensor, prior: Tensor) -> Tensor:
        fast, large = self.fast, functional.interpolate(features, scale_factor=2.0)
        main = functional.leaky_relu(modulated(fast.spade1, large, prior), 0.2)
        main = fast.conv1(main)
        main = functional.leaky_relu(modulated(fast.spade2, main, prior), 0.2)
        return fast.shortcut_conv(modulated(fast.shortcut_spade, large, prior)) + fast.conv2(main)


class PlainMerge(nn.Module):
    def __init__(self, fast: MergingBlock) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, features: Tensor) -> Tensor:
        main = self.fast.conv2(functional.relu(self.fast.conv1(features)))
        return self.fast.shortcut(features) + main


class PlainResidual(nn.Module):
    def __init__(self, fast: ResidualBlock) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, features: Tensor) -> Tensor:
        return features + self.fast.conv2(functional.relu(self.fast.conv1(features)))


class GrowingBlock(nn.Module):
    def __init__(self, fast: DenseBlock) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, features: Tensor) -> Tensor:
        grown = features
        for layer in self.fast.layers:
            grown = torch.cat([grown, functional.relu(layer(grown))], dim=1)
        return features + self.fast.merge(grown)


class ConcatenatingTrunk(nn.Module):
    def __init__(self, fast: DenseTrunk) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, encoded: Tensor) -> Tensor:
        features, outputs = self.fast.entry(encoded), []
        for block in self.fast.blocks:
            features = block(features)
            outputs.append(features)
        return self.fast.smooth(self.fast.gather(torch.cat(outputs, dim=1))) + encoded


PLAIN = {
    RegionNorm: FilledRegionNorm,
    SpadeResidualBlock: PlainMiddle,
    SpadeRisingBlock: PlainRise,
    MergingBlock: PlainMerge,
    ResidualBlock: PlainResidual,
    DenseBlock: GrowingBlock,
}


def naive(generator: nn.Module) -> nn.Module:
    """Return a generator that shares the parameters and computes in the authors' way."""
    shared = {id(parameter): parameter for parameter in generator.parameters()}
    slow = copy.deepcopy(generator, shared)
    replace_in(slow)
    return slow


def replace_in(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) in PLAIN:
            setattr(module, name, PLAIN[type(child)](child))
            continue
        replace_in(child)
        if isinstance(child, DenseTrunk):
            setattr(module, name, ConcatenatingTrunk(child))
