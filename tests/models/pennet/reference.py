"""PEN-Net's attention as the sheets of arithmetic state it, patch by patch and slowly.

The tests compare the model with this in float64; the benchmarks call it the naive form.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional


def known_keys(mask: Tensor, size: tuple[int, int], kernel_size: int, resize: str) -> Tensor:
    """Return [h * w] bools of one sample's mask [1, H, W]: patches without any hole in them."""
    if resize == "nearest":
        small = functional.interpolate(mask[None], size, mode="nearest")
    elif resize == "largest":
        small = functional.adaptive_max_pool2d(mask[None], size)
    else:
        small = functional.interpolate(mask[None], size, mode="bilinear", align_corners=True)
    patches = functional.unfold(small, kernel_size, padding=kernel_size // 2)
    return patches.mean(dim=1)[0] == 0


def attention(
    deeper: Tensor,
    known: Tensor,
    kernel_size: int,
    scale: float = 10.0,
    normalise_queries: bool = False,
    excluded: bool = False,
    floor: float = 0.0,
) -> Tensor:
    """Return [queries, keys] of one sample's map [C, h, w], from unfolded patches."""
    patches = functional.unfold(deeper[None], kernel_size, padding=kernel_size // 2)[0].T
    lengths = patches.square().sum(dim=1, keepdim=True).clamp_min(1e-8).sqrt()
    queries = patches / lengths if normalise_queries else patches
    scores = scale * (queries @ (patches / lengths).T)
    scores = scores.masked_fill(~known, -1e30 if excluded else 0.0)
    weights = torch.softmax(scores, dim=1) * known
    return weights.clamp_min(floor) if floor else weights


def transfer(
    shallow: Tensor,
    deeper: Tensor,
    mask: Tensor,
    kernel_size: int,
    resize: str = "bilinear",
    **form: bool | float,
) -> Tensor:
    """Fill [B, C, 2h, 2w] sample by sample from its 4 x 4 patches, as the released loop does."""
    size = (deeper.shape[2], deeper.shape[3])
    filled = []
    for low, high, hole in zip(shallow, deeper, mask, strict=True):
        weights = attention(high, known_keys(hole, size, kernel_size, resize), kernel_size, **form)
        patches = functional.unfold(low[None], 4, stride=2, padding=1)[0].T
        kernels = patches.reshape(-1, len(low), 4, 4)
        predicted = functional.conv_transpose2d(
            weights.T.reshape(1, -1, *size), kernels, stride=2, padding=1
        )
        filled.append(predicted / 4.0)
    return torch.cat(filled)


class NaiveTransfer(nn.Module):
    """Takes the place of an ``AttentionTransfer`` in a generator, computed as the release does.

    Sample by sample, with the patches as kernels of convolutions: what benchmarks compare with.
    """

    def __init__(self, fast: nn.Module) -> None:
        super().__init__()
        self.kernel_size = fast.kernel_size
        self.refinement = fast.refinement

    def forward(self, shallow: Tensor, deeper: Tensor, mask: Tensor) -> Tensor:
        samples = zip(shallow.split(1), deeper.split(1), mask, strict=True)
        filled = torch.cat([self.fill(*sample) for sample in samples])
        if not self.refinement:
            return filled
        return torch.cat([functional.relu(conv(filled)) for conv in self.refinement], dim=1)

    def fill(self, shallow: Tensor, deeper: Tensor, mask: Tensor) -> Tensor:
        size, k = (deeper.shape[2], deeper.shape[3]), self.kernel_size
        known = known_keys(mask, size, k, "bilinear")[None, :, None, None].to(deeper.dtype)
        keys = functional.unfold(deeper, k, padding=k // 2)[0].T.reshape(-1, deeper.shape[1], k, k)
        keys = keys / keys.square().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-8).sqrt()
        scores = functional.conv2d(deeper, keys, padding=k // 2) * known
        weights = torch.softmax(10.0 * scores, dim=1) * known
        patches = functional.unfold(shallow, 4, stride=2, padding=1)[0].T
        kernels = patches.reshape(-1, shallow.shape[1], 4, 4)
        return functional.conv_transpose2d(weights, kernels, stride=2, padding=1) / 4.0


def naive(generator: nn.Module) -> nn.Module:
    """Return a generator that shares the parameters and attends as the release does."""
    slow = copy.deepcopy(
        generator, {id(parameter): parameter for parameter in generator.parameters()}
    )
    slow.fillers = nn.ModuleList(NaiveTransfer(filler) for filler in slow.fillers)
    return slow


def patch_swap(features: Tensor, mask: Tensor) -> Tensor:
    """Swap 3 x 3 patches in the hole of [B, C, h, w], one position at a time."""
    batch, channels, height, width = features.shape
    small = functional.interpolate(mask, (height, width), mode="bilinear", align_corners=True)
    swapped = []
    for low, hole, small_hole in zip(features, mask, small, strict=True):
        known = known_keys(hole, (height, width), 3, "bilinear")
        patches = functional.unfold(low[None], 3, padding=1)[0].T
        if not known.any():
            swapped.append(low)
            continue
        unit = patches / patches.norm(dim=1, keepdim=True).clamp_min(1e-4)
        chosen = [int((unit[known] @ one).argmax()) for one in unit]
        picked = patches[known][chosen].T[None]
        size = (height, width)
        counts = functional.fold(torch.ones_like(picked[:, :9]), size, 3, padding=1)[0]
        average = functional.fold(picked, size, 3, padding=1)[0] / counts
        swapped.append(small_hole * average + (1 - small_hole) * low)
    return torch.stack(swapped)


def released_forward(
    released: dict[str, Tensor], image: Tensor, mask: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Run a released generator, name by name, sample by sample in its attention.

    Args:
        released: the tensors of "netG".
        image: [B, 3, H, W] in [-1, 1].
        mask: [B, 1, H, W], 1 in the hole.

    Returns:
        The picture, and the pyramid from deep to shallow; all in [-1, 1].
    """

    def conv(name: str, features: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        weight, bias = released[f"{name}.weight"], released[f"{name}.bias"]
        reach = dilation * (weight.shape[2] // 2)
        return functional.conv2d(features, weight, bias, stride, reach, dilation)

    def larger(features: Tensor) -> Tensor:
        return functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)

    features = torch.cat([image * (1 - mask) + mask, mask], dim=1)
    maps = []
    for level in range(1, 7):
        features = conv(f"dw_conv{level:02}.0", features, stride=2)
        features = functional.leaky_relu(features, 0.2) if level < 6 else torch.relu(features)
        maps.append(features)
    filled, predicted, pyramid = maps[5], maps[5], []
    for level in range(5, 0, -1):
        k = 1 if level == 5 else 3
        filled = transfer(maps[level - 1], filled, mask, k, floor=1e-8)
        if level < 5:
            branches = [
                torch.relu(conv(f"at_conv{level:02}.conv{index:02}.0", filled, dilation=2**index))
                for index in range(4)
            ]
            filled = torch.cat(branches, dim=1)
        predicted = torch.relu(conv(f"up_conv{level:02}.0", larger(predicted)))
        predicted = torch.cat([predicted, filled], dim=1)
        pyramid.append(torch.tanh(conv(f"torgb{level}.0", predicted)))
    last = torch.relu(conv("decoder.0", larger(predicted)))
    return torch.tanh(conv("decoder.2", last)), pyramid
