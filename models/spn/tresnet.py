"""TResNet-L up to its second stage: the paper's teacher, and its public checkpoint.

The module tree has the checkpoint's names, so that the file is loaded strictly. Before use
:func:`folded` turns every convolution and its norm into one convolution.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.padding import bordered
from infill.models.seeding import fill_normal
from infill.models.weight_files import network_of, read_weights, sha256_of

WIDTHS = (76, 152)
"""Channels of the first two stages: 64 and 128 planes times 1.2, cut to whole numbers."""
NUM_BLOCKS = (4, 5)
SQUEEZED_CHANNELS = 64
EPSILON = 1e-5
LEAVING_OUT = re.compile(r"^(body\.)?(layer[34]|head)\.|num_batches_tracked$")
"""Keys of the whole classifier that the first two stages do not have."""
ASL_FILE = "Open_ImagesV6_TRresNet_L_448.pth"


class ActivatedNorm(nn.Module):
    """Batch normalisation in evaluation, scaled by |weight| + 1e-5, then leaky ReLU.

    The absolute value is part of the published definition (in-place ABN): a channel with a
    negative weight would change its sign without it.
    """

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    running_mean: Tensor
    running_var: Tensor

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the norm as a factor and a summand per channel, [C] each."""
        scale = (self.weight.abs() + EPSILON) * torch.rsqrt(self.running_var + EPSILON)
        return scale, self.bias - self.running_mean * scale

    def forward(self, features: Tensor) -> Tensor:
        """Normalise and activate [B, C, H, W]."""
        scale, shift = self.scale_and_shift()
        features = features * scale[:, None, None] + shift[:, None, None]
        return functional.leaky_relu(features, self.slope)


def normed(
    in_channels: int, out_channels: int, kernel_size: int, slope: float = 1.0
) -> nn.Sequential:
    """Return a convolution without bias and its norm; a slope of 1 activates nothing."""
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False),
        ActivatedNorm(out_channels, slope),
    )


class BlurPool(nn.Module):
    """Halve the size after a binomial blur of 3 x 3, with a reflected border."""

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, C, H/2, W/2]."""
        row = features.new_full((3,), 0.25)
        row[1].fill_(0.5)
        channels = features.shape[1]
        kernel = (row[:, None] * row).expand(channels, 1, 3, 3)
        padded = bordered(features, 1, "reflect")
        return functional.conv2d(padded, kernel, stride=2, groups=channels)


class SqueezeExcite(nn.Module):
    """Scale channels by a function of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, SQUEEZED_CHANNELS, 1)
        self.fc2 = nn.Conv2d(SQUEEZED_CHANNELS, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Scale [B, C, H, W]."""
        means = features.mean(dim=(2, 3), keepdim=True)
        return features * torch.sigmoid(self.fc2(functional.relu(self.fc1(means))))


class BasicBlock(nn.Module):
    """Two normed convolutions, squeeze and excitation, beside the identity or a narrower path."""

    downsample: nn.Module

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        halves = in_channels != channels
        self.conv1 = normed(in_channels, channels, 3, slope=0.001)
        self.conv2 = normed(channels, channels, 3)
        self.se = SqueezeExcite(channels)
        self.downsample = nn.Identity()
        if halves:
            self.conv1 = nn.Sequential(self.conv1, BlurPool())
            pool = nn.AvgPool2d(2, stride=2, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(pool, normed(in_channels, channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C_in, H, W] into [B, C, H, W], or half that size where channels grow."""
        main = self.se(self.conv2(self.conv1(features)))
        return functional.relu(main + self.downsample(features))


class TResNet(nn.Module):
    """The stem and the first two stages of TResNet-L (2,578,192 parameters)."""

    def __init__(self) -> None:
        super().__init__()
        narrow, wide = WIDTHS
        self.conv1 = normed(48, narrow, 3, slope=0.01)
        self.layer1 = nn.Sequential(*(BasicBlock(narrow, narrow) for _ in range(NUM_BLOCKS[0])))
        self.layer2 = nn.Sequential(
            *(BasicBlock(narrow if i == 0 else wide, wide) for i in range(NUM_BLOCKS[1]))
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look at [B, 3, 4h, 4w] in [0, 1].

        Returns:
            Coarsest first: [B, 152, h/2, w/2], [B, 76, h, w] and the stem's [B, 76, h, w].
        """
        stem = self.conv1(space_to_depth(image))
        first = self.layer1(stem)
        return self.layer2(first), first, stem


def space_to_depth(image: Tensor) -> Tensor:
    """Turn [B, 3, 4h, 4w] into [B, 48, h, w]: by row in the cell, column, then colour."""
    batch, colours, height, width = image.shape
    cells = image.view(batch, colours, height // 4, 4, width // 4, 4)
    return cells.permute(0, 3, 5, 1, 2, 4).reshape(batch, 16 * colours, height // 4, width // 4)


def folded(network: TResNet) -> TResNet:
    """Fold every norm into the convolution before it, in place; outputs agree to rounding."""
    for module in list(network.modules()):
        if not isinstance(module, nn.Sequential) or not isinstance(module[-1], ActivatedNorm):
            continue
        convolution, norm = module[0], module[1]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, ActivatedNorm)
        with torch.no_grad():
            scale, shift = norm.scale_and_shift()
            convolution.weight.mul_(scale[:, None, None, None])
        convolution.bias = nn.Parameter(shift.detach())
        module[1] = nn.LeakyReLU(norm.slope) if norm.slope != 1.0 else nn.Identity()
    return network


def random_network(seed: int = 0) -> TResNet:
    """Return a TResNet nobody trained, the same for the same seed on every worker.

    Unlike a TResNet about to be trained, its last norm in a block is not zero: otherwise the
    first stage would merely repeat the stem.
    """
    network = TResNet()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                deviation = (2.0 / parameter[0].numel()) ** 0.5
                fill_normal(parameter, deviation, generator)
            elif name.endswith("bias"):
                parameter.zero_()
    return network


def load_network(path: str | None, sha256: str | None = None) -> TResNet:
    """Read TResNet-L from a checkpoint of ASL (or a plain state dict, or timm's names).

    Args:
        path: the local file.
        sha256: its expected digest in hexadecimal; not compared if None.

    Raises:
        ValueError: if there is no file, it is another one, or a tensor is missing or misshapen.
    """
    if path is None:
        raise ValueError(
            "teacher 'asl' needs teacher_weights, the path of TResNet-L trained on OpenImages "
            f"({ASL_FILE} of the ASL model zoo); without it choose teacher 'filterbank'"
        )
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"teacher_weights: there is no file {file}; get {ASL_FILE} and give its path"
        )
    if sha256 is not None and (found := sha256_of(file)) != sha256.lower():
        raise ValueError(f"teacher_sha256 is {sha256}, but {file} has {found}; get the file again")
    network = TResNet()
    _load_strictly(network, network_of(read_weights(file)), str(file))
    return network


def _load_strictly(network: TResNet, checkpoint: Mapping[str, Any], name: str) -> None:
    state = own_names(checkpoint)
    expected = network.state_dict()
    wrong = [
        key
        for key in expected
        if key not in state or tuple(state[key].shape) != tuple(expected[key].shape)
    ]
    left = sorted(set(state) - set(expected))
    if wrong or left:
        raise ValueError(
            f"{name} is not TResNet-L: {len(wrong)} of {len(expected)} tensors are missing or "
            f"misshapen (first {wrong[:3]}), {len(left)} are unknown (first {left[:3]})"
        )
    network.load_state_dict({key: state[key] for key in expected})


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a public state dict under our names, without tensors that the first two stages lack.

    Prefixes ``module.`` and ``body.`` are taken off. timm has renamed the layers and stores each
    norm's weight as |w| + 1e-5 already, which is undone.
    """
    names = {key.removeprefix("module."): key for key in state}
    renamed = any(".conv.weight" in name for name in names)
    ours = {}
    for name, key in names.items():
        if LEAVING_OUT.search(name):
            continue
        tensor = state[key]
        name = name.removeprefix("body.")
        if renamed:
            if name.endswith(".bn.weight"):
                tensor = tensor - EPSILON
            name = name.replace(".conv.weight", ".0.weight").replace(".bn.", ".1.")
            name = re.sub(r"^(layer2\.0\.conv1)\.", r"\1.0.", name)
        ours[name] = tensor
    return ours
