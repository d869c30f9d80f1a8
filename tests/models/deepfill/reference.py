"""DeepFill as its authors laid it out: every pad a copy, and patches turned into kernels.

The tests compare the model with this; the benchmarks call it the naive form.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.deepfill.attention import NORM_FLOOR, ContextualAttention, free_of_hole, thinned
from infill.models.deepfill.config import AttentionConfig
from infill.models.deepfill.layers import Convolution


class CopyingConvolution(nn.Module):
    """A row of the layout, its padded or doubled input written out, nothing in place."""

    def __init__(self, fast: Convolution) -> None:
        super().__init__()
        assert fast.border == "same"
        self.fast = fast
        self.width = fast.width

    def forward(self, features: Tensor) -> Tensor:
        row = self.fast.row
        if row.rise:
            features = functional.interpolate(features, scale_factor=2.0, mode="nearest")
        reach = row.dilation * (row.kernel - 1)
        if row.stride == 2:
            before, after = (reach - 1) // 2, reach // 2
        else:
            before = after = reach // 2
        features = functional.pad(features, (before, after, before, after))
        predicted = functional.conv2d(
            features, self.fast.weight, self.fast.bias, row.stride, dilation=row.dilation
        )
        if row.activation == "elu":
            return functional.elu(predicted)
        return functional.relu(predicted) if row.activation == "relu" else predicted


class KernelAttention(nn.Module):
    """Contextual attention image by image, its patches the kernels of convolutions."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        assert config.normalize == "background"
        assert (config.masked, config.overlap, config.fuse, config.wrap) == (
            "zero",
            "fixed",
            True,
            True,
        )
        self.config = config

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        images = zip(features.split(1), mask.split(1), strict=True)
        return torch.cat([self.rebuilt(*image) for image in images])

    def rebuilt(self, features: Tensor, mask: Tensor) -> Tensor:
        channels = features.shape[1]
        places = thinned(features, 2, self.config.downsample)
        height, width = places.shape[2:]
        valid = free_of_hole(mask, features.shape[2:], self.config).view(1, -1, 1, 1)
        patches = functional.unfold(places, 3, padding=1)[0].T.reshape(-1, channels, 3, 3)
        if self.config.norm_floor == "added":
            lengths = (patches.square() + NORM_FLOOR).sum(dim=(1, 2, 3), keepdim=True).sqrt()
        else:
            squares = patches.square().sum(dim=(1, 2, 3), keepdim=True)
            lengths = squares.clamp_min(NORM_FLOOR**2).sqrt()
        scores = functional.conv2d(places, patches / lengths, padding=1)
        scores = supported(scores, height, width)
        weights = torch.softmax(self.config.scale * scores * valid, dim=1) * valid
        windows = functional.unfold(features, 4, stride=2, padding=1)[0].T
        kernels = windows.reshape(-1, channels, 4, 4)
        return functional.conv_transpose2d(weights, kernels, stride=2, padding=1) / 4.0


def supported(scores: Tensor, height: int, width: int) -> Tensor:
    """Add neighbouring matches to [1, N, h, w] by convolving with the identity, twice."""
    count = height * width
    diagonal = torch.eye(3, dtype=scores.dtype)[None, None]
    table = scores.view(1, 1, count, count)
    table = functional.conv2d(table, diagonal, padding=1)
    table = table.view(1, height, width, height, width).permute(0, 2, 1, 4, 3)
    table = functional.conv2d(table.reshape(1, 1, count, count), diagonal, padding=1)
    table = table.view(1, width, height, width, height).permute(0, 2, 1, 4, 3)
    return table.reshape(1, count, height, width)


def naive(generator: nn.Module) -> nn.Module:
    """Return a generator that shares the parameters and computes in the authors' way."""
    shared = {id(parameter): parameter for parameter in generator.parameters()}
    slow = copy.deepcopy(generator, shared)
    replace_in(slow)
    return slow


def replace_in(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, Convolution):
            setattr(module, name, CopyingConvolution(child))
        elif isinstance(child, ContextualAttention):
            setattr(module, name, KernelAttention(child.config))
        else:
            replace_in(child)


DILATIONS = {7: 2, 8: 4, 9: 8, 10: 16}


def released_forward(
    released: dict[str, Tensor], form: str, image: Tensor, mask: Tensor, gated: bool = False
) -> tuple[Tensor, Tensor]:
    """Run a released generator, name by name: the final picture and the coarse one.

    Args:
        released: TensorFlow's variables, or the state dict of the PyTorch port.
        form: "tensorflow", which sees blue-green-red and pads as TensorFlow does, or "port".
        image: [B, 3, H, W] red-green-blue in [-1, 1].
        mask: [B, 1, H, W], 1 in the hole.
        gated: whether these are version 2's: half of a layer's maps are gates, tanh instead of
            clipping, and the second stage sees colours alone.
    """
    tensorflow = form == "tensorflow"
    stems = {
        "coarse": "inpaint_net/conv" if tensorflow else "coarse_generator.conv",
        "imagine": "inpaint_net/xconv" if tensorflow else "fine_generator.conv",
        "match": "inpaint_net/pmconv" if tensorflow else "fine_generator.pmconv",
        "merge": "inpaint_net/allconv" if tensorflow else "fine_generator.allconv",
    }

    def tensors(part: str, number: int) -> tuple[Tensor, Tensor]:
        start = f"{stems[part]}{number}"
        ends = ("kernel:0", "bias:0") if tensorflow else ("weight", "bias")
        for middle in (
            "",
            "_downsample",
            "_atrous",
            f"_upsample/{start.split('/')[-1]}_upsample_conv",
        ):
            joint = "/" if tensorflow else ".conv."
            names = [f"{start}{middle}{joint}{end}" for end in ends]
            if names[0] in released:
                weight, bias = (released[name] for name in names)
                return (weight.permute(3, 2, 0, 1) if tensorflow else weight), bias
        raise KeyError(f"{start}...")

    def conv(part: str, number: int, features: Tensor, activation: str = "elu") -> Tensor:
        weight, bias = tensors(part, number)
        stride, rate = 2 if number in (2, 4) else 1, DILATIONS.get(number, 1)
        rate = 1 if part == "match" else rate
        if number in (13, 15):
            features = functional.interpolate(features, scale_factor=2, mode="nearest")
        reach = rate * (weight.shape[2] - 1)
        if tensorflow and stride == 2:
            before, after = (reach - 1) // 2, reach // 2
        else:
            before = after = reach // 2
        features = functional.pad(features, (before, after, before, after))
        predicted = functional.conv2d(features, weight, bias, stride, dilation=rate)
        if activation == "none":
            return predicted
        gate: Tensor | float = 1.0
        if gated:
            predicted, gate = predicted.chunk(2, dim=1)
            gate = gate.sigmoid()
        return gate * (
            functional.elu(predicted) if activation == "elu" else functional.relu(predicted)
        )

    def decoded(part: str, features: Tensor) -> Tensor:
        for number in range(11, 17):
            features = conv(part, number, features)
        predicted = conv(part, 17, features, "none")
        return predicted.tanh() if gated else predicted.clamp(-1, 1)

    colours = image.flip(1) if tensorflow else image
    hidden = colours * (1 - mask)
    features = torch.cat([hidden, torch.ones_like(mask), mask], dim=1)
    for number in range(1, 11):
        features = conv("coarse", number, features)
    coarse = decoded("coarse", features)
    composite = coarse * mask + hidden * (1 - mask)
    entry = torch.cat([composite, torch.ones_like(mask), mask], dim=1)
    if gated:
        entry = composite
    imagined = matched = entry
    for number in range(1, 11):
        imagined = conv("imagine", number, imagined)
    for number in range(1, 7):
        matched = conv("match", number, matched, "relu" if number == 6 else "elu")
    settings = {"downsample": "align_corners"} if tensorflow else {"norm_floor": "added"}
    copied = KernelAttention(AttentionConfig(**settings))(matched, mask)
    for number in (9, 10):
        copied = conv("match", number, copied)
    final = decoded("merge", torch.cat([imagined, copied], dim=1))
    return (final.flip(1), coarse.flip(1)) if tensorflow else (final, coarse)
