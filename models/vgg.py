"""VGG-16 and VGG-19, frozen, as features for perceptual and style losses.

The layers and the state dict's names are torchvision's public ones; torchvision is not needed.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_rest
from infill.models.seeding import fill_normal
from infill.models.weight_files import network_of, read_weights, sha256_of

STAGES: dict[int, tuple[int, ...]] = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions before each of the five poolings, by depth."""
STAGE_CHANNELS = (64, 128, 256, 512, 512)
COLOUR_MEAN = (0.485, 0.456, 0.406)
COLOUR_DEVIATION = (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's colours in [0, 1], with which the public weights were
trained."""
RANDOM = "random"
"""Value in place of a path: untrained weights, the same in every process."""


class VGGFeatures(nn.Module):
    """The convolutions of a VGG up to the last layer that is used; never trained."""

    def __init__(
        self, depth: Literal[16, 19], layers: Sequence[str], normalise_colours: bool
    ) -> None:
        """Build the layers with PyTorch's initialisation; see :func:`load_features`."""
        super().__init__()
        plan = _plan(depth)
        activated = [layer.replace("conv", "relu") for layer in layers]
        if missing := [layer for layer in activated if layer not in plan]:
            raise ValueError(
                f"VGG-{depth} has no layer {missing[0]!r}; its layers are: {', '.join(plan)}, "
                "and conv in place of relu for the output before the activation"
            )
        self.layers = tuple(layers)
        self.plan = plan[: 1 + max(plan.index(layer) for layer in activated)]
        self.features = nn.ModuleDict()
        """By torchvision's index, so that a state dict's keys are its own."""
        in_channels, index = 3, 0
        for layer in self.plan:
            if layer.startswith("relu"):
                channels = STAGE_CHANNELS[int(layer[4]) - 1]
                self.features[str(index)] = nn.Conv2d(in_channels, channels, 3, padding=1)
                in_channels, index = channels, index + 2
            else:
                index += 1
        colours = (COLOUR_MEAN, COLOUR_DEVIATION) if normalise_colours else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(colours[0])[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(colours[1])[:, None, None], persistent=False)
        at_rest(self)

    mean: Tensor
    deviation: Tensor

    def forward(self, colours: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the chosen layers.

        Args:
            colours: [B, 3, H, W] in [0, 1], H and W at least 16 where all five stages are used.

        Returns:
            One [B, C, h, w] for each of ``layers``, in their order.
        """
        features = (colours - self.mean) / self.deviation
        convolutions = iter(self.features.values())
        seen = {}
        for layer in self.plan:
            if layer.startswith("relu"):
                features = next(convolutions)(features)
                before = layer.replace("relu", "conv")
                if before in self.layers:
                    seen[before] = features
                features = functional.relu(features, inplace=before not in self.layers)
            else:
                features = pooled(features)
            if layer in self.layers:
                seen[layer] = features
        return tuple(seen[layer] for layer in self.layers)


class _Pool(torch.autograd.Function):
    """Max pooling of 2 x 2 that keeps no positions of maxima for the backward pass.

    PyTorch's own keeps eight bytes for each, and its backward pass copies channels-last maps to
    another layout and back. The map and its maxima are kept by their neighbours anyway.
    """

    @staticmethod
    def forward(context: Any, features: Tensor) -> Tensor:
        maxima = functional.max_pool2d(features, 2)
        context.save_for_backward(features, maxima)
        return maxima

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        """Give each gradient to the first of its window's four values that is the maximum."""
        features, maxima = context.saved_tensors
        height, width = (2 * side for side in maxima.shape[2:])
        out, nothing = torch.zeros_like(features), torch.zeros_like(gradient[:1, :1, :1, :1])
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            window = (..., slice(row, height, 2), slice(column, width, 2))
            given = torch.where(features[window] == maxima, gradient, nothing)
            out[window] = given
            gradient = gradient - given
        return out


def pooled(features: Tensor) -> Tensor:
    """Return the maxima of 2 x 2 windows of [B, C, H, W]; an odd last row or column is left out."""
    if not (torch.is_grad_enabled() and features.requires_grad):
        return functional.max_pool2d(features, 2)
    maxima: Tensor = _Pool.apply(features)  # type: ignore[no-untyped-call]
    return maxima


def _plan(depth: int) -> list[str]:
    """Return the layers in order: relu1_1, relu1_2, pool1, relu2_1, ..."""
    plan = []
    for stage, count in enumerate(STAGES[depth], start=1):
        plan += [f"relu{stage}_{index}" for index in range(1, count + 1)] + [f"pool{stage}"]
    return plan


def load_features(
    depth: Literal[16, 19],
    layers: Sequence[str],
    weights: str | None,
    sha256: str | None = None,
    normalise_colours: bool = True,
) -> VGGFeatures:
    """Build frozen features with the public ImageNet weights.

    Args:
        depth: 16 or 19.
        layers: names such as "relu3_1", "pool2" or "conv5_1", which is before its ReLU.
        weights: local path of torchvision's state dict (vgg16 or vgg19, without batch norm), or
            "random" for features nobody trained.
        sha256: the file's expected digest in hexadecimal; not compared if None.
        normalise_colours: subtract ImageNet's mean colour and divide by its deviation first.

    Raises:
        ValueError: if there is no file, it is another one, or a tensor is missing or misshapen.
    """
    network = VGGFeatures(depth, layers, normalise_colours)
    if weights == RANDOM:
        _randomise(network)
        return network
    if weights is None:
        raise ValueError(
            f"this loss needs perceptual_weights, the path of torchvision's vgg{depth} state dict;"
            f" give {RANDOM!r} to look through weights that nobody trained"
        )
    file = Path(weights).expanduser()
    if not file.is_file():
        raise ValueError(f"perceptual_weights: there is no file {file} with VGG-{depth}")
    if sha256 is not None and (found := sha256_of(file)) != sha256.lower():
        raise ValueError(f"{file} has the SHA-256 {found}, not {sha256}; get the file again")
    _load_strictly(network, network_of(read_weights(file)), depth, file)
    return network


def _load_strictly(network: VGGFeatures, state: Mapping[str, Any], depth: int, file: Path) -> None:
    expected = network.state_dict()
    wrong = [
        key
        for key, tensor in expected.items()
        if key not in state or tuple(state[key].shape) != tuple(tensor.shape)
    ]
    if wrong:
        raise ValueError(
            f"{file} is not torchvision's vgg{depth}: {len(wrong)} of {len(expected)} tensors are "
            f"missing or misshapen, first {wrong[0]}"
        )
    network.load_state_dict({key: state[key] for key in expected})


@torch.no_grad()
def _randomise(network: VGGFeatures) -> None:
    parameters = list(network.parameters())
    # Under a mode of PyTorch or another default device, values are none that others can use.
    usual = all(type(one.data) is Tensor and one.device.type == "cpu" for one in parameters)
    generated = _random_values if usual else _random_values.__wrapped__
    values = generated(tuple(tuple(parameter.shape) for parameter in parameters))
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


@lru_cache(maxsize=2)
def _random_values(shapes: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
    """Return weights and biases; generating 20 million again takes longer than a small step."""
    generator = torch.Generator().manual_seed(0)
    values = tuple(torch.empty(shape) for shape in shapes)
    for value in values:
        # Keeps the size of features through the ReLUs (He et al., 2015).
        deviation = (2.0 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.0
        fill_normal(value, deviation, generator)
    return values
