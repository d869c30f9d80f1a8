"""MADF's arithmetic as the paper states it: slow, plain, and storing a kernel per position.

The tests compare the model with this in float64; the benchmarks call it the naive form.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.madf.filtering import DynamicConv2d
from infill.models.madf.networks import Generator, PointwiseNorm


def filtered_one_by_one(dynamic: DynamicConv2d, features: Tensor, mask_features: Tensor) -> Tensor:
    """Filter position by position: make the kernel, cut the window, multiply, sum."""
    k, stride = dynamic.kernel_size, dynamic.stride
    padded = functional.pad(features, [dynamic.padding] * 4)
    out = features.new_zeros(features.shape[0], dynamic.out_channels, *mask_features.shape[2:])
    weight, bias = dynamic.kernels.weight[:, :, 0, 0], dynamic.kernels.bias
    for sample, channel, row, column in torch.cartesian_prod(*map(torch.arange, out.shape)):
        mask_vector = mask_features[sample, :, row, column]
        total = features.new_zeros(())
        for c_in in range(dynamic.in_channels):
            for i in range(k):
                for j in range(k):
                    d = ((c_in * k + i) * k + j) * dynamic.out_channels + channel
                    kernel = weight[d] @ mask_vector + bias[d]
                    total += kernel * padded[sample, c_in, row * stride + i, column * stride + j]
        out[sample, channel, row, column] = total
    return out


def filtered_by_stored_kernels(
    dynamic: DynamicConv2d, features: Tensor, mask_features: Tensor
) -> Tensor:
    """Filter with all kernels stored: [B, J, C_out, positions], as released."""
    kernels = functional.conv2d(mask_features, dynamic.kernels.weight, dynamic.kernels.bias)
    kernels = kernels.flatten(2).unflatten(1, (dynamic.window, dynamic.out_channels))
    windows = functional.unfold(
        features, dynamic.kernel_size, padding=dynamic.padding, stride=dynamic.stride
    )
    kernels = kernels.permute(0, 3, 1, 2).contiguous()  # [B, P, J, C_out]
    windows = windows.transpose(1, 2).unsqueeze(2)  # [B, P, 1, J]
    out = torch.matmul(windows, kernels).squeeze(2)  # [B, P, C_out]
    return out.transpose(1, 2).unflatten(2, mask_features.shape[2:])


def norm_as_printed(norm: PointwiseNorm, features: Tensor, condition: Tensor) -> Tensor:
    """Normalise, multiply by 1 + gain, add the shift."""
    hidden = torch.relu(norm.hidden(condition))
    return norm.norm(features) * (1 + norm.gain(hidden)) + norm.shift(hidden)


class StoredKernels(nn.Module):
    def __init__(self, dynamic: DynamicConv2d) -> None:
        super().__init__()
        self.dynamic = dynamic

    def forward(self, features: Tensor, mask_features: Tensor) -> Tensor:
        return filtered_by_stored_kernels(self.dynamic, features, mask_features)


class PrintedNorm(nn.Module):
    def __init__(self, norm: PointwiseNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        return norm_as_printed(self.norm, features, condition)


class DoubledFirst(nn.Module):
    """A refinement decoder whose head doubles all of its features before it predicts."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.blocks, self.head = decoder.blocks, decoder.head

    def predict(self, features: Tensor, pictures: list[Tensor], entry: Tensor) -> Tensor:
        doubled = functional.interpolate(
            features, scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return self.head(torch.cat([doubled, *pictures, entry], dim=1))


def naive(generator: Generator) -> Generator:
    """Return a generator that shares the parameters and computes everything in the plain form."""
    slow = copy.deepcopy(
        generator, {id(parameter): parameter for parameter in generator.parameters()}
    )
    filters = slow.encoder.filters
    slow.encoder.filters = nn.ModuleList(StoredKernels(dynamic) for dynamic in filters)
    for decoder in slow.refinements:
        for block in decoder.blocks:
            if isinstance(block.norm, PointwiseNorm):
                block.norm = PrintedNorm(block.norm)
    slow.refinements = nn.ModuleList(DoubledFirst(decoder) for decoder in slow.refinements)
    return slow


def released_forward(state: dict[str, Tensor], image: Tensor, known: Tensor) -> list[Tensor]:
    """Run a released state dict as the authors' network does in evaluation, name by name.

    Args:
        state: in the authors' names, without prefixes; of any number of levels and decoders.
        image: [B, 3, H, W] in normalised colours.
        known: [B, 3, H, W], 1 where known.

    Returns:
        The pictures, coarse to fine, in normalised colours.
    """
    levels = sum(name.startswith("enc_up_") for name in state) // 2
    entry = torch.cat([image * known, known], dim=1)
    features, mask_features, skips = entry, known, [entry]
    for level in range(1, levels + 1):
        mask_features, features = _filtered(state, level, mask_features, features)
        skips.append(torch.relu(_conv(state, f"enc_up_{level}.0", features)))
    recovered, maps = skips[levels], {}
    for level in range(levels, 1, -1):
        risen = _bn(state, f"deconv_{level}.1", _deconv(state, f"deconv_{level}.0", recovered))
        joined = torch.cat([skips[level - 1], functional.leaky_relu(risen, 0.2)], dim=1)
        recovered = torch.relu(_conv(state, f"att_conv_{level}.conv.0", joined, padding=1))
        maps[level - 1] = recovered
    joined = torch.cat([entry, _deconv(state, "deconv_1.0", recovered)], dim=1)
    pictures = [_conv(state, "att_conv_1.conv.0", joined, padding=1)]
    for index in range(sum(name.startswith("dec_ref") and "_1." in name for name in state) // 2):
        refined = skips[levels]
        for level in range(levels, 1, -1):
            name = f"dec_ref{index}_{level}"
            risen = _pointwise(
                state, name, _deconv(state, f"{name}.deconv", refined), maps[level - 1]
            )
            refined = maps[level - 1] = functional.leaky_relu(risen, 0.2)
        doubled = functional.interpolate(
            refined, scale_factor=2, mode="bilinear", align_corners=False
        )
        joined = torch.cat([doubled, *pictures, entry], dim=1)
        pictures.append(_conv(state, f"dec_ref{index}_1", joined))
    return pictures


def _filtered(
    state: dict[str, Tensor], level: int, mask_features: Tensor, features: Tensor
) -> tuple[Tensor, Tensor]:
    """Make the kernels of a level and use them; returns mask features and features."""
    name = f"filter_gen_{level}"
    k = state[f"{name}.conv.0.weight"].shape[-1]
    mask_features = torch.relu(
        _conv(state, f"{name}.conv.0", mask_features, stride=2, padding=k // 2)
    )
    theta = _conv(state, f"{name}.conv1.0", mask_features)
    windows = functional.unfold(features, k, padding=k // 2, stride=2)  # [B, J, P]
    kernels = theta.flatten(2).unflatten(1, (windows.shape[1], -1))  # [B, J, C_out, P]
    out = torch.einsum("bjop,bjp->bop", kernels, windows)
    return mask_features, torch.relu(out.unflatten(2, theta.shape[2:]))


def _pointwise(state: dict[str, Tensor], name: str, features: Tensor, condition: Tensor) -> Tensor:
    hidden = torch.relu(_conv(state, f"{name}.bn.mlp_shared.0", condition, padding=1))
    gain = _conv(state, f"{name}.bn.mlp_scale", hidden, padding=1)
    shift = _conv(state, f"{name}.bn.mlp_bias", hidden, padding=1)
    return _bn(state, f"{name}.bn.batch_norm", features) * (1 + gain) + shift


def _conv(
    state: dict[str, Tensor], name: str, features: Tensor, stride: int = 1, padding: int = 0
) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return functional.conv2d(features, weight, bias, stride=stride, padding=padding)


def _deconv(state: dict[str, Tensor], name: str, features: Tensor) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return functional.conv_transpose2d(features, weight, bias, stride=2, padding=1)


def _bn(state: dict[str, Tensor], name: str, features: Tensor) -> Tensor:
    return functional.batch_norm(
        features,
        state[f"{name}.running_mean"],
        state[f"{name}.running_var"],
        state.get(f"{name}.weight"),
        state.get(f"{name}.bias"),
    )
