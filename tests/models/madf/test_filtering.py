"""The dynamic convolution in its fast form against kernels made and used position by position."""

from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from infill.models.madf.config import MADFConfig
from infill.models.madf.filtering import DynamicConv2d, DynamicEncoder
from infill.models.madf.networks import Generator

both_forms = pytest.mark.parametrize("convolve", [True, False], ids=["convolved", "multiplied"])
PUBLISHED_LEVELS = {
    1: (6, 16, 7),
    2: (16, 32, 5),
    3: (32, 64, 3),
    4: (64, 128, 3),
    5: (128, 128, 3),
}
"""Channels in, channels out, kernel size; levels 6 and 7 are as 5."""


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def inputs(dynamic: DynamicConv2d, height: int, width: int, count: int = 2) -> list[Tensor]:
    """Return features and mask features; the second sample's mask is all hole."""
    dtype = dynamic.kernels.weight.dtype
    features = noise(count, dynamic.in_channels, height, width, dtype=dtype)
    rows = [(size + 2 * dynamic.padding - dynamic.kernel_size) // 2 + 1 for size in (height, width)]
    mask_features = noise(count, dynamic.mask_channels, *rows, seed=2, dtype=dtype).relu()
    mask_features[1:] = 0
    return [features.requires_grad_(), mask_features.requires_grad_()]


def gradients(out: Tensor, dynamic: DynamicConv2d, leaves: list[Tensor]) -> list[Tensor]:
    weights = noise(*out.shape, seed=3, dtype=out.dtype)
    return list(torch.autograd.grad((out * weights).sum(), [*leaves, *dynamic.parameters()]))


def relative_error(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max()).item()


@both_forms
def test_kernels_are_read_in_the_released_order(convolve: bool) -> None:
    dynamic = DynamicConv2d(1, 1, 3, 2, 16, convolve).double()
    with torch.no_grad():
        dynamic.kernels.weight.zero_()
        dynamic.kernels.weight[:, 0, 0, 0] = torch.arange(1.0, 10.0)
        dynamic.kernels.bias.fill_(0.5)
    features = torch.arange(1.0, 17.0, dtype=torch.float64).view(1, 1, 4, 4)
    mask_features = torch.zeros(1, 16, 2, 2, dtype=torch.float64)
    mask_features[0, 0] = torch.tensor([[1, 2], [3, 4]])
    out = dynamic(features, mask_features)
    assert out.tolist() == [[[[118.0, 449.0], [1117.5, 2341.5]]]]


@both_forms
@pytest.mark.parametrize("size", [(5, 7), (6, 4), (1, 3)])
def test_filtering_equals_a_kernel_per_position(
    reference: ModuleType, convolve: bool, size: tuple[int, int]
) -> None:
    dynamic = DynamicConv2d(2, 3, 3, 2, 5, convolve).double()
    leaves = inputs(dynamic, *size)
    out, slow = dynamic(*leaves), reference.filtered_one_by_one(dynamic, *leaves)
    torch.testing.assert_close(out, slow, rtol=0, atol=1e-12)
    for value, expected in zip(
        gradients(out, dynamic, leaves), gradients(slow, dynamic, leaves), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-11)


@both_forms
@pytest.mark.parametrize("level", PUBLISHED_LEVELS)
@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float64, 1e-12), (torch.float32, 5e-6)], ids=["double", "single"]
)
def test_every_published_level_equals_stored_kernels_in_value_and_gradient(
    reference: ModuleType, convolve: bool, level: int, dtype: torch.dtype, allowed: float
) -> None:
    dynamic = DynamicConv2d(*PUBLISHED_LEVELS[level], 2, 16, convolve).to(dtype)
    leaves = inputs(dynamic, 7, 5)
    out = dynamic(*leaves)
    slow = reference.filtered_by_stored_kernels(dynamic, *leaves)
    assert out.shape == (2, dynamic.out_channels, 4, 3)
    assert relative_error(out, slow) < allowed
    for value, expected in zip(
        gradients(out, dynamic, leaves), gradients(slow, dynamic, leaves), strict=True
    ):
        assert relative_error(value, expected) < allowed


@both_forms
def test_channels_last_filters_alike(convolve: bool) -> None:
    dynamic = DynamicConv2d(4, 6, 5, 2, 3, convolve).double()
    features, mask_features = (part.detach() for part in inputs(dynamic, 9, 6))
    expected = dynamic(features, mask_features)
    dynamic = dynamic.to(memory_format=torch.channels_last)
    out = dynamic(*(p.to(memory_format=torch.channels_last) for p in (features, mask_features)))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@both_forms
def test_filtering_is_linear_in_the_features(convolve: bool) -> None:
    dynamic = DynamicConv2d(2, 3, 3, 2, 4, convolve).double()
    one, mask_features = inputs(dynamic, 6, 5)
    other = noise(*one.shape, seed=9)
    both = dynamic(2 * one - 3 * other, mask_features)
    apart = 2 * dynamic(one, mask_features) - 3 * dynamic(other, mask_features)
    torch.testing.assert_close(both, apart, rtol=0, atol=1e-12)


@both_forms
def test_half_precision_is_mixed_in_full(convolve: bool) -> None:
    dynamic = DynamicConv2d(8, 16, 3, 2, 16, convolve)
    features, mask_features = (part.detach() for part in inputs(dynamic, 16, 16))
    expected = dynamic(features, mask_features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = dynamic(features, mask_features)
    assert out.dtype == torch.float32
    assert (out - expected).square().mean().sqrt() < 0.005 * expected.square().mean().sqrt()


def test_kernel_generators_start_as_convolutions_over_16_mask_features() -> None:
    kernels = DynamicConv2d(64, 128, 3, 2, 16, convolve=False).kernels
    assert kernels.weight.shape == (73_728, 16, 1, 1)
    for tensor in (kernels.weight, kernels.bias):
        assert 0.249 < tensor.abs().max() <= 0.25


def test_features_grow_with_depth_at_the_start_as_measured_on_the_release() -> None:
    config = MADFConfig()
    encoder = DynamicEncoder(config.filter_widths, config.skip_widths, 16, dead_norms=False)
    known = torch.ones(1, 1, 256, 256)
    known[..., 64:192, 64:192] = 0
    image = noise(1, 3, 256, 256, dtype=torch.float32)
    sizes: list[float] = []
    for dynamic in encoder.filters:
        dynamic.register_forward_hook(
            lambda _, __, out: sizes.append(out.relu().square().mean().sqrt().item())
        )
    with torch.no_grad():
        encoder(torch.cat([image * known, known.expand(-1, 3, -1, -1)], dim=1), known)
    # Another start, such as that of a convolution over a window, is a different network.
    for size, measured in zip(sizes, (1.8, 5.3, 9.4, 22, 76, 262, 715), strict=True):
        assert 0.5 < size / measured < 2


def test_windows_inside_the_hole_give_nothing_but_the_lift_s_bias() -> None:
    config = MADFConfig.tiny()
    encoder = Generator(config).encoder
    entry, known = torch.zeros(1, 6, 64, 64), torch.zeros(1, 1, 64, 64)
    filtered = []
    for dynamic in encoder.filters:
        dynamic.register_forward_hook(lambda _, __, out: filtered.append(out))
    skips = encoder(entry, known)
    assert len(filtered) == config.levels
    assert all(torch.equal(out, torch.zeros_like(out)) for out in filtered)
    for skip, lift in zip(skips, encoder.lifts, strict=True):
        assert torch.equal(skip, lift.bias.relu().view(1, -1, 1, 1).expand_as(skip))


def test_all_known_mask_makes_the_first_level_one_static_convolution() -> None:
    encoder = DynamicEncoder((16, 32), (8, 8), 16, dead_norms=False).double()
    entry, known = noise(1, 6, 64, 64), torch.ones(1, 1, 64, 64, dtype=torch.float64)
    dynamic, mask = encoder.filters[0], encoder.masks[0]
    out = dynamic(entry, encoder.mask_features(known, 1))
    mask_vector = (mask.bias + mask.weight.sum(dim=(1, 2, 3))).relu()
    kernel = dynamic.kernels_at(mask_vector[None])[0]
    static = functional.conv2d(entry, kernel, stride=2, padding=3)
    inside = (..., slice(2, 31), slice(2, 31))
    torch.testing.assert_close(out[inside], static[inside], rtol=0, atol=1e-12)
    assert not torch.allclose(out, static)


def test_shown_kernels_are_those_that_filter() -> None:
    config = MADFConfig.tiny()
    generator = Generator(config).double()
    mask = torch.zeros(2, 1, 64, 64, dtype=torch.float64)
    mask[0, :, 10:40, 20:50] = 1
    dynamic = generator.encoder.filters[1]
    features = noise(2, 2, 32, 32)
    mask_features = generator.encoder.mask_features(1 - mask, 2)
    kernels = generator.kernels(mask, level=2, row=7, column=8)
    assert kernels.shape == (2, 4, 2, 5, 5)
    window = functional.pad(features, [2] * 4)[..., 14:19, 16:21]
    expected = dynamic(features, mask_features)[..., 7, 8]
    torch.testing.assert_close((kernels * window[:, None]).sum(dim=(2, 3, 4)), expected)
    assert not torch.allclose(kernels[0], kernels[1])
