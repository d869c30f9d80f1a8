"""DeepGIN as its authors laid it out, run from tensors under their names.

The tests compare the model with this; the benchmarks call it the naive form.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.deepgin.weights import names

RATES = (2, 3, 4, 5, 6, 8, 10, 1)
State = dict[str, Tensor]


class Pictures(NamedTuple):
    final: Tensor
    unclipped: Tensor
    coarse: Tensor
    small: Tensor


def conv(state: State, name: str, features: Tensor, stride: int = 1, rate: int = 1) -> Tensor:
    """Pad a copy by replication, then convolve."""
    weight = state[f"{name}.weight"]
    reach = rate * (weight.shape[2] - 1) // 2
    padded = functional.pad(features, [reach] * 4, mode="replicate")
    return functional.conv2d(padded, weight, state[f"{name}.bias"], stride, dilation=rate)


def active(features: Tensor) -> Tensor:
    return functional.leaky_relu(features, 0.2)


def doubled(features: Tensor, factor: float = 2.0) -> Tensor:
    return functional.interpolate(
        features, scale_factor=factor, mode="bilinear", align_corners=True
    )


def pyramid(state: State, name: str, features: Tensor, branches: int) -> Tensor:
    outputs = [
        functional.relu(conv(state, f"{name}.branch{index + 1}.conv", features, rate=RATES[index]))
        for index in range(branches)
    ]
    fused = conv(state, f"{name}.fusion{branches + 1}.conv", torch.cat(outputs, dim=1))
    return features + fused


def attention(state: State, name: str, features: Tensor) -> Tensor:
    """Hold the affinities of all pairs of places."""

    def point(part: str, of: Tensor) -> Tensor:
        return functional.conv2d(of, state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"])

    theta, phi, g = (point(part, features).flatten(2) for part in ("theta", "phi", "g"))
    weights = torch.softmax(theta.mT @ phi, dim=-1)
    seen = (weights @ g.mT).mT.reshape(len(features), -1, *features.shape[2:])
    return features + point("W", seen)


def released_forward(
    state: State, image: Tensor, mask: Tensor, labels: Tensor | None = None
) -> Pictures:
    """Run a released state dict.

    Args:
        state: in the authors' names.
        image: [B, 3, H, W] in [0, 1].
        mask: [B, 1, H, W], 1 in the hole.
        labels: [B, 3, H, W] in [0, 1], for the form of seven channels.

    Returns:
        ``unclipped``, ``coarse`` and ``small`` in [0, 1]; ``final`` in [-1, 1].
    """
    first, white = "lr_coarse_tinker", image * (1 - mask) + mask
    guides = [mask] if labels is None else [mask, labels]
    features = torch.cat([white, *guides], dim=1)
    for number, stride in ((1, 1), (4, 2), (7, 2), (10, 2)):
        features = active(conv(state, f"{first}.{number}", features, stride))
    for number in range(12, 18):
        features = pyramid(state, f"{first}.{number}", features, 8)
    for number in (20, 24, 28):
        features = active(conv(state, f"{first}.{number}", doubled(features)))
    coarse = conv(state, f"{first}.31", features)

    composite = coarse * mask + image * (1 - mask)
    features, maps = torch.cat([composite, *guides], dim=1), []
    for number in range(1, 6):
        features = active(conv(state, f"r_en_conv{number}", features, 1 if number == 1 else 2))
        maps.append(features)
    for number in (1, 2, 5):
        features = pyramid(state, f"r_md_mres{number}", features, 4)
    features = attention(state, "r_md_satn1", features)
    for number in (3, 4, 6):
        features = pyramid(state, f"r_md_mres{number}", features, 4)
    rise = active(conv(state, "r_de_conv1", doubled(features)))
    skip = attention(state, "r_de_satn2", active(conv(state, "r_en_skp_conv4", maps[3])))
    rise = active(conv(state, "r_de_mix_conv1", torch.cat([rise, skip], dim=1)))
    rise = active(conv(state, "r_de_conv2", doubled(rise)))
    skip = attention(state, "r_de_satn3", active(conv(state, "r_en_skp_conv3", maps[2])))
    quarter = active(conv(state, "r_de_mix_conv2", torch.cat([rise, skip], dim=1)))
    small = conv(state, "r_de_conv3_lr", active(conv(state, "r_de_conv2_lr", quarter)))
    rise = active(conv(state, "r_de_conv3", doubled(quarter)))
    rise = active(conv(state, "r_de_conv4", doubled(rise)))
    share = torch.sigmoid(conv(state, "r_de_conv5_lr_alpha", rise))
    base = conv(state, "r_de_conv5", rise) * mask + image * (1 - mask)
    unclipped = base + share * doubled(small - doubled(base, 0.25), 4.0)
    return Pictures((unclipped * 2 - 1).clamp(-1, 1), unclipped, coarse, small)


class Naive(nn.Module):
    """A generator of the full network, run in the authors' way with the same parameters."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor, mask: Tensor) -> Pictures:
        table = names("generator")
        state = {table[name]: tensor for name, tensor in self.generator.named_parameters()}
        return released_forward(state, (image + 1) / 2, mask)


def naive(generator: nn.Module) -> nn.Module:
    """Return a generator that shares the parameters and computes in the authors' way."""
    return Naive(generator)
