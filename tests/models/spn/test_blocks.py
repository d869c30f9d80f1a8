"""Every fused or closed form against the plain form it stands for, in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.spn.blocks import (
    DenseBlock,
    LearnedRegionNorm,
    MergingBlock,
    RegionNorm,
    Spade,
    SpadeResidualBlock,
    SpadeRisingBlock,
    normalise_regions,
)
from infill.models.spn.config import SPNConfig
from infill.models.spn.prior import DenseTrunk

CLOSE = {"rtol": 0, "atol": 1e-10}


def noise(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 3


def half_hole(height: int = 9, width: int = 11) -> Tensor:
    hole = torch.zeros(2, 1, height, width, dtype=torch.bool)
    hole[0, :, :, : width // 2] = True
    hole[1, :, 2:5, 1:9] = True
    return hole


def gradients(output: Tensor, module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return list(torch.autograd.grad((output * weights).sum(), [*inputs, *module.parameters()]))


def assert_same(module: nn.Module, ours: Tensor, plain: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(ours, plain, **CLOSE)
    for mine, other in zip(
        gradients(ours, module, *inputs), gradients(plain, module, *inputs), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-8)


def filled_instance_norm(features: Tensor, region: Tensor) -> Tensor:
    """Fill the rest with the region's mean, normalise the whole map, scale by sqrt(share)."""
    part = region.double()
    area = part.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean = (features * part).sum(dim=(2, 3), keepdim=True) / area
    whole = functional.instance_norm(features * part + (1 - part) * mean)
    return whole * (area / part[0, 0].numel()).sqrt() * part


def plain_region_norm(norm: RegionNorm, features: Tensor, hole: Tensor) -> Tensor:
    inside = filled_instance_norm(features, hole)
    outside = filled_instance_norm(features, ~hole)
    shape = (1, -1, 1, 1)
    return (
        inside * (1 + norm.hole_gain.view(shape))
        + outside * (1 + norm.known_gain.view(shape))
        + norm.hole_shift.view(shape)
        + norm.known_shift.view(shape)
    )


def random_parameters(module: nn.Module) -> nn.Module:
    module = module.double()
    for index, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
    return module


@pytest.mark.parametrize("kind", ["half", "empty", "full", "one pixel"])
def test_region_norm_is_fill_then_instance_norm(kind: str) -> None:
    hole = half_hole()
    if kind != "half":
        hole[:] = kind == "full"
    if kind == "one pixel":
        hole[..., 3, 4] = True
    norm = random_parameters(RegionNorm(5))
    features = noise(2, 5, 9, 11).requires_grad_()
    assert_same(norm, norm(features, hole), plain_region_norm(norm, features, hole), features)


def test_each_region_has_mean_zero_and_variance_one() -> None:
    features, hole = noise(2, 3, 40, 40), half_hole(40, 40)
    hole[1] = ~hole[0]
    normalised = normalise_regions(features, hole)
    for image in range(2):
        for region in (hole[image, 0], ~hole[image, 0]):
            inside = normalised[image][:, region]
            torch.testing.assert_close(inside.mean(1), torch.zeros(3).double(), **CLOSE)
            torch.testing.assert_close(
                inside.var(1, correction=0), torch.ones(3).double(), rtol=0, atol=1e-5
            )


def test_region_norm_of_an_empty_hole_is_instance_norm() -> None:
    features = noise(2, 3, 8, 8)
    hole = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    normalised = RegionNorm(3).double()(features, hole)
    torch.testing.assert_close(normalised, functional.instance_norm(features), **CLOSE)


def test_the_hole_s_shift_is_added_at_every_pixel() -> None:
    norm = RegionNorm(3).double()
    features, hole = noise(2, 3, 9, 11), half_hole()
    before = norm(features, hole)
    nn.init.ones_(norm.hole_shift)
    torch.testing.assert_close(norm(features, hole), before + 1, **CLOSE)


def test_learned_region_norm_is_its_formula() -> None:
    norm = random_parameters(LearnedRegionNorm())
    features = noise(2, 4, 9, 11).requires_grad_()
    pooled = torch.stack([features.mean(1), features.max(1).values], dim=1)
    attention = torch.sigmoid(functional.conv2d(pooled, norm.attention.weight, padding=3))
    region = attention >= 0.8
    assert 0 < region.double().mean() < 1
    both = filled_instance_norm(features, region) + filled_instance_norm(features, ~region)
    gain = functional.conv2d(attention, norm.gain.weight, norm.gain.bias, padding=3)
    shift = functional.conv2d(attention, norm.shift.weight, norm.shift.bias, padding=3)
    assert sum(p.numel() for p in norm.parameters()) == 198
    assert_same(norm, norm(features), both * (1 + gain) + shift, features)


def plain_spade(spade: Spade, features: Tensor, prior: Tensor) -> Tensor:
    hidden = functional.relu(spade.hidden(prior))
    return functional.instance_norm(features) * (1 + spade.gain(hidden)) + spade.shift(hidden)


def test_spade_without_gain_and_shift_is_instance_norm() -> None:
    spade = Spade(6, 4, 3).double()
    for convolution in (spade.gain, spade.shift):
        nn.init.zeros_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    features, prior = noise(2, 6, 8, 8), noise(2, 4, 8, 8)
    normalised = functional.instance_norm(features)
    modulated = spade(normalised, prior)
    torch.testing.assert_close(modulated, normalised, **CLOSE)


def test_middle_block_is_the_plain_one() -> None:
    block = SpadeResidualBlock(6, 4, 3).double()
    features, prior = noise(2, 6, 8, 9).requires_grad_(), noise(2, 4, 8, 9).requires_grad_()
    main = functional.relu(plain_spade(block.spade1, features, prior))
    main = functional.pad(main, (2, 2, 2, 2), mode="reflect")
    main = functional.conv2d(main, block.conv1.weight, block.conv1.bias, dilation=2)
    main = functional.relu(plain_spade(block.spade2, main, prior))
    main = functional.pad(main, (1, 1, 1, 1), mode="reflect")
    plain = features + functional.conv2d(main, block.conv2.weight, block.conv2.bias)
    assert_same(block, block(features, prior), plain, features, prior)


def test_middle_block_without_its_last_convolution_is_the_identity() -> None:
    block = SpadeResidualBlock(6, 4, 3).double()
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    features = noise(2, 6, 8, 9)
    assert torch.equal(block(features, noise(2, 4, 8, 9)), features)


def test_rising_block_is_the_plain_one_on_the_repeated_map() -> None:
    block = SpadeRisingBlock(6, 4, 3, 5).double()
    features, prior = noise(2, 6, 5, 7).requires_grad_(), noise(2, 3, 10, 14).requires_grad_()
    large = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    main = block.conv1(functional.leaky_relu(plain_spade(block.spade1, large, prior), 0.2))
    main = block.conv2(functional.leaky_relu(plain_spade(block.spade2, main, prior), 0.2))
    shortcut = block.shortcut_conv(plain_spade(block.shortcut_spade, large, prior))
    assert_same(block, block(features, prior), main + shortcut, features, prior)


def test_merging_block_is_two_branches() -> None:
    block = MergingBlock(7, 4).double()
    features = noise(2, 7, 6, 5).requires_grad_()
    for parts in ([features], [features[:, :2], features[:, 2:]]):
        plain = block.shortcut(features) + block.conv2(functional.relu(block.conv1(features)))
        assert_same(block, block(*parts), plain, features)


def test_dense_block_is_the_one_with_growing_concatenations() -> None:
    block = DenseBlock(6, 3, 4).double()
    features = noise(2, 6, 7, 5).requires_grad_()
    grown = features
    for layer in block.layers:
        grown = torch.cat([grown, functional.relu(layer(grown))], dim=1)
    assert_same(block, block(features), features + block.merge(grown), features)


def test_dense_trunk_is_the_one_that_concatenates_all_outputs() -> None:
    config = SPNConfig(channels=2, num_dense_blocks=3, num_dense_layers=2)
    trunk = DenseTrunk(config).double()
    encoded = noise(2, 8, 7, 5).requires_grad_()
    features, outputs = trunk.entry(encoded), []
    for block in trunk.blocks:
        features = block(features)
        outputs.append(features)
    plain = trunk.smooth(trunk.gather(torch.cat(outputs, dim=1))) + encoded
    assert_same(trunk, trunk(encoded), plain, encoded)
