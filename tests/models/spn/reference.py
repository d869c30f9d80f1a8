"""SPN's generator as its authors laid it out: every convolution alone, every pad and sum a copy.

The tests compare the model with this; the benchmarks call it the naive form. Below it, the released
networks by the names of their files.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.spn.blocks import (
    DenseBlock,
    MergingBlock,
    RegionNorm,
    ResidualBlock,
    Spade,
    SpadeResidualBlock,
    SpadeRisingBlock,
)
from infill.models.spn.prior import DenseTrunk


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

    def forward(self, *parts: Tensor) -> Tensor:
        features = torch.cat(parts, dim=1)
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


class ReleasedPictures(NamedTuple):
    """A released generator's output in [0, 1], and the maps its heads compare with a teacher."""

    final: Tensor
    heads: list[Tensor]


def released_forward(state: dict[str, Tensor], colours: Tensor, hole: Tensor) -> ReleasedPictures:
    """Run a released generator by the names of its file; of a latent, its mean is predicted.

    Args:
        state: the generator's tensors, without a prefix.
        colours: [B, 3, H, W] in [0, 1].
        hole: [B, 1, H, W], 1 in the hole.
    """
    net = ByName(state)
    masked = colours * (1 - hole) + hole
    alone = "decoder.2.sa.conv1.weight" in state
    skips, prior = net.semantics(masked, hole, slope=0.1 if alone else 0.0)
    pyramid = [prior]
    if not alone:
        for number, skip in zip((0, 4), skips, strict=True):
            lifted = net.conv(f"feature_recon_decoder.{number}", pyramid[-1], padding=1)
            lifted = functional.relu(functional.pixel_shuffle(lifted, 2))
            both = torch.cat([skip, lifted], dim=1)
            pyramid.append(net.merging(f"feature_recon_decoder.{number + 3}", both))
    features = net.image(masked, hole)
    for number in range(net.count("middle.{}.conv_block.3.weight")):
        features = net.middle(f"middle.{number}.conv_block", features, pyramid[0])
    if alone:
        for number in (0, 4):
            features = net.conv(f"decoder.{number}", features, padding=1)
            features = functional.pixel_shuffle(features, 2)
            features = functional.relu(net.found_regions(f"decoder.{number + 2}.sa", features))
        predicted = net.conv("decoder.9", features, reflection=3)
    else:
        for number, level in ((1, pyramid[1]), (3, pyramid[2])):
            features = net.rising(
                f"decoder.{number}", functional.interpolate(features, None, 2), level
            )
        predicted = net.conv("decoder.6", functional.leaky_relu(features, 0.2), reflection=3)
    names = ["feature_mapping", "feature_mapping_128", "feature_mapping_256"]
    heads = [net.conv(name, level) for name, level in zip(names, pyramid, strict=False)]
    return ReleasedPictures((torch.tanh(predicted) + 1) / 2, heads)


class ByName:
    """The layers of a released generator, found by the names of its file."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def count(self, name: str) -> int:
        return next(number for number in range(99) if name.format(number) not in self.state)

    def conv(
        self, name: str, x: Tensor, *, padding: int = 0, reflection: int = 0, stride=1, dilation=1
    ) -> Tensor:
        if reflection:
            x = functional.pad(x, [reflection] * 4, mode="reflect")
        weight, bias = self.state[name + ".weight"], self.state.get(name + ".bias")
        return functional.conv2d(x, weight, bias, stride, padding, dilation)

    def semantics(
        self, masked: Tensor, hole: Tensor, slope: float
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return the encoder's maps at half and whole size, and the coarsest prior."""
        x = functional.interpolate(torch.cat([masked, hole], dim=1), scale_factor=2)
        encoded = []
        for number in (1, 2, 3, 4):
            how = {"reflection": 3} if number == 1 else {"stride": 2, "padding": 1}
            x = functional.leaky_relu(self.conv(f"encoder_conv{number}_sm", x, **how), slope)
            encoded.append(x)
        x, outputs = self.conv("encoder_sm_out", x, padding=1), []
        for number in range(self.count("rdbs.{}.lff.weight")):
            grown = x
            for layer in range(self.count(f"rdbs.{number}.layers.{{}}.conv.weight")):
                new = self.conv(f"rdbs.{number}.layers.{layer}.conv", grown, padding=1)
                grown = torch.cat([grown, functional.relu(new)], dim=1)
            x = x + self.conv(f"rdbs.{number}.lff", grown)
            outputs.append(x)
        x = self.conv("gff.1", self.conv("gff.0", torch.cat(outputs, dim=1)), padding=1)
        x = x + encoded[3]
        if "mu.weight" in self.state:
            latent = x
            for number in (0, 2, 4):
                latent = self.conv(f"encoder_z.{number}", latent, stride=2, padding=1)
                latent = functional.leaky_relu(latent, 0.2)
            latent = self.conv("mu", latent)
            for number in (0, 3, 6):
                latent = self.conv(f"decoder_z.{number}", latent, padding=1)
                latent = functional.relu(functional.pixel_shuffle(latent, 2))
            x = torch.cat([x, latent], dim=1)
        for number in range(self.count("feature_recon.{}.conv_block.1.weight")):
            x = self.merging(f"feature_recon.{number}", x)
        return (encoded[2], encoded[1]), x

    def merging(self, name: str, x: Tensor) -> Tensor:
        main = functional.relu(self.conv(f"{name}.conv_block.1", x, reflection=1))
        main = self.conv(f"{name}.conv_block.4", main, reflection=1)
        if f"{name}.shortcut.1.weight" in self.state:
            x = self.conv(f"{name}.shortcut.1", x, reflection=1)
        return x + main

    def image(self, masked: Tensor, hole: Tensor) -> Tensor:
        x = masked
        for number in (1, 2, 3):
            how = {"reflection": 3} if number == 1 else {"stride": 2, "padding": 1}
            x = self.conv(f"encoder_conv{number}", x, **how)
            part = functional.interpolate(hole, x.shape[2:]) > 0
            sides = []
            for region, theirs in ((part, "foreground"), (~part, "background")):
                gain = self.state[f"encoder_in{number}.{theirs}_gamma"].view(1, -1, 1, 1)
                shift = self.state[f"encoder_in{number}.{theirs}_beta"].view(1, -1, 1, 1)
                sides.append(filled_instance_norm(x, region) * (1 + gain) + shift)
            x = functional.relu(sides[0] + sides[1])
        return x

    def spade(self, name: str, x: Tensor, prior: Tensor) -> Tensor:
        hidden = functional.relu(self.conv(f"{name}.mlp_shared.0", prior, padding=1))
        gain = self.conv(f"{name}.mlp_gamma", hidden, padding=1)
        return functional.instance_norm(x) * (1 + gain) + self.conv(
            f"{name}.mlp_beta", hidden, padding=1
        )

    def middle(self, name: str, x: Tensor, prior: Tensor) -> Tensor:
        main = functional.relu(self.spade(f"{name}.0", x, prior))
        main = self.conv(f"{name}.3", main, reflection=2, dilation=2)
        main = functional.relu(self.spade(f"{name}.4", main, prior))
        return x + self.conv(f"{name}.7", main, reflection=1)

    def rising(self, name: str, x: Tensor, prior: Tensor) -> Tensor:
        main = functional.leaky_relu(self.spade(f"{name}.conv_block.0", x, prior), 0.2)
        main = self.conv(f"{name}.conv_block.2", main, padding=1)
        main = functional.leaky_relu(self.spade(f"{name}.conv_block.3", main, prior), 0.2)
        main = self.conv(f"{name}.conv_block.5", main, padding=1)
        shortcut = self.spade(f"{name}.SPADE_s", x, prior)
        return self.conv(f"{name}.conv_s", shortcut, padding=1) + main

    def found_regions(self, name: str, x: Tensor) -> Tensor:
        """Normalize the regions that a map of the features distinguishes."""
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        pooled = torch.sigmoid(self.conv(f"{name}.conv1", pooled, padding=3))
        region = pooled >= 0.8
        whole = filled_instance_norm(x, region) + filled_instance_norm(x, ~region)
        gain = self.conv(f"{name}.gamma_conv", pooled, padding=3)
        return whole * (1 + gain) + self.conv(f"{name}.beta_conv", pooled, padding=3)


def released_judgement(state: dict[str, Tensor], colours: Tensor) -> Tensor:
    """Run a released discriminator by its names, without its sigmoid: logits, float64."""
    x = colours
    matching = "conv1.0.bias" in state
    for number, stride in enumerate((2, 2, 2, 1, 1), start=1):
        name = f"conv{number}.0.weight"
        if name in state:
            weight = state[name]
        else:
            weight = state[name + "_orig"]
            u, v = state[name + "_u"], state[name + "_v"]
            weight = weight / torch.dot(u, weight.flatten(1) @ v)
        x = functional.conv2d(x, weight, state.get(f"conv{number}.0.bias"), stride, padding=1)
        if matching and number in (2, 3, 4):
            x = functional.instance_norm(x)
        if number < 5:
            x = functional.leaky_relu(x, 0.2)
    return x
