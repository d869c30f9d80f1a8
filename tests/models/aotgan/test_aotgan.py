"""AOT-GAN: released counts and layout, blocks by a slow form, losses by hand, the soft target."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.aotgan.config import AOTGANConfig
from infill.models.aotgan.networks import AOTBlock, Discriminator, Generator, masked_input, spread
from infill.models.aotgan.objective import AOTGANObjective, blurred, enlarged
from infill.models.aotgan.visualize import intermediate_results
from infill.models.aotgan.weights import names, networks_of, read_release, write_release
from infill.models.architecture import Batch
from infill.models.masking import paste
from infill.models.vgg import load_features

TINY = AOTGANConfig.tiny()
LAYERS = (
    *("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
    *("relu2_2", "relu3_4", "relu4_4", "relu5_2"),
)
"""Layers of VGG-19: five for the perceptual loss, then four for the style loss, as released."""


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def objective_of(config: AOTGANConfig = TINY) -> AOTGANObjective:
    return AOTGANObjective(config, lambda network: network)


def batch_of(side: int = 32) -> Batch:
    mask = torch.zeros(2, 1, side, side)
    mask[..., 8:24, 8:20] = 1
    return Batch(image=torch.rand(2, 3, side, side) * 2 - 1, mask=mask)


def test_networks_have_the_released_numbers_of_parameters() -> None:
    counts = {
        role: sum(p.numel() for p in network.parameters())
        for role, network in networks_of(AOTGANConfig()).items()
    }
    assert counts == {"generator": 15_200_835, "discriminator": 2_763_777}


def test_layers_have_the_released_names_and_shapes() -> None:
    config = AOTGANConfig()
    shapes = {
        names(role, config)[ours]: tuple(tensor.shape)
        for role, network in networks_of(config).items()
        for ours, tensor in network.state_dict().items()
    }
    assert len(shapes) == 2 * (3 + 8 * 6 + 3) + 4 * 3 + 2
    for name, shape in {
        "encoder.1.weight": (64, 4, 7, 7),
        "encoder.5.weight": (256, 128, 4, 4),
        "middle.0.block00.1.weight": (64, 256, 3, 3),
        "middle.7.block03.1.bias": (64,),
        "middle.7.fuse.1.weight": (256, 256, 3, 3),
        "middle.7.gate.1.bias": (256,),
        "decoder.0.conv.weight": (128, 256, 3, 3),
        "decoder.2.conv.bias": (64,),
        "decoder.4.weight": (3, 64, 3, 3),
        "conv.0.weight_orig": (64, 3, 4, 4),
        "conv.6.weight_orig": (512, 256, 4, 4),
        "conv.6.weight_u": (512,),
        "conv.6.weight_v": (4096,),
        "conv.8.weight": (1, 512, 4, 4),
        "conv.8.bias": (1,),
    }.items():
        assert shapes[name] == shape, name


@pytest.mark.parametrize(
    "config", [TINY, replace(TINY, residual="identity", num_blocks=3, channels=2)]
)
def test_files_are_read_and_written_back_tensor_by_tensor(config: AOTGANConfig) -> None:
    states = {role: net.state_dict() for role, net in objective_of(config).networks.items()}
    file = write_release(replace(read_release(file_of(config)), config=config, states=states))
    released = read_release(file)
    assert released.image_size_px == 512
    assert released.states.keys() == states.keys()
    for role, state in states.items():
        for name, tensor in state.items():
            assert torch.equal(released.states[role][name], tensor), name
    found = released.config
    assert isinstance(found, AOTGANConfig)
    for name in ("channels", "num_blocks", "rates", "residual", "discriminator_channels"):
        assert getattr(found, name) == getattr(config, name)
    alone = read_release({name: file[name] for name in file if not name.startswith("conv.")})
    assert alone.states.keys() == {"generator"}


def file_of(config: AOTGANConfig) -> dict[str, Tensor]:
    return {
        names(role, config)[ours]: tensor
        for role, network in objective_of(config).networks.items()
        for ours, tensor in network.state_dict().items()
    }


def test_missing_misshapen_and_left_over_tensors_are_named() -> None:
    file, name = file_of(TINY), "middle.1.gate.1.bias"
    with pytest.raises(ValueError, match=f"lacks 1 tensor, first {name}"):
        read_release({key: value for key, value in file.items() if key != name})
    with pytest.raises(ValueError, match=f"{name} should have the shape"):
        read_release({**file, name: torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 tensor too many, first extra"):
        read_release({**file, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="not a checkpoint of AOT-GAN"):
        read_release({"other": torch.zeros(1)})


@torch.no_grad()
def test_block_is_the_released_one_written_out() -> None:
    block = AOTBlock(TINY).double()
    features = torch.randn(2, 16, 12, 11, dtype=torch.float64)

    def convolved(conv: nn.Conv2d, given: Tensor, rate: int = 1) -> Tensor:
        padded = nn.ReflectionPad2d(rate)(given)
        return functional.conv2d(padded, conv.weight, conv.bias, dilation=rate)

    branches = [
        convolved(block.branches[i], features, rate).relu() for i, rate in enumerate((1, 2, 4, 8))
    ]
    fused = convolved(block.fuse, torch.cat(branches, 1))
    gate = convolved(block.gate, features)
    for sample, channel in ((0, 0), (1, 15)):
        plane = gate[sample, channel]
        mean = plane.sum() / plane.numel()
        deviation = math.sqrt(((plane - mean) ** 2).sum() / (plane.numel() - 1))
        share = torch.sigmoid(5 * (2 * (plane - mean) / (deviation + 1e-9) - 1))
        expected = features[sample, channel] * (1 - share) + fused[sample, channel] * share
        torch.testing.assert_close(block(features)[sample, channel], expected)


def test_equal_values_shut_the_gates_with_finite_gradients() -> None:
    features = torch.full((1, 2, 4, 4), 0.3, requires_grad=True)
    logits = spread(features)
    torch.testing.assert_close(logits, torch.full_like(logits, -5.0), rtol=0, atol=1e-3)
    logits.sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


@torch.no_grad()
def test_holes_are_white_to_the_generator() -> None:
    batch = batch_of()
    given = masked_input(batch.image, batch.mask)
    assert (given[:, :3][batch.mask.bool().expand_as(batch.image)] == 1).all()
    known = ~batch.mask.bool().expand_as(batch.image)
    assert torch.equal(given[:, :3][known], batch.image[known])
    assert torch.equal(given[:, 3:], batch.mask)


@torch.no_grad()
def test_only_the_discriminator_s_last_kernel_starts_small() -> None:
    kernels = [conv.weight.std().item() for conv in Generator(AOTGANConfig(num_blocks=1)).halvings]
    assert kernels == pytest.approx([0.02, 0.02], rel=0.02)
    discriminator = Discriminator(AOTGANConfig())
    assert discriminator.out.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert discriminator.convs[0].weight.std().item() > 0.05


@torch.no_grad()
def test_discriminator_scores_an_eighth_of_the_frame() -> None:
    assert Discriminator(TINY)(torch.rand(1, 3, 64, 96)).shape == (1, 1, 6, 10)


def test_soft_target_is_the_mask_under_a_gaussian_window() -> None:
    mask = torch.zeros(1, 1, 40, 40, dtype=torch.float64)
    mask[..., 10:30, 12:25] = 1
    weights = [math.exp(-((i - 3) ** 2) / (2 * 1.5**2)) for i in range(7)]
    total = sum(weights)
    for row, column in ((10, 12), (9, 20), (29, 24), (20, 18), (0, 0)):
        expected = sum(
            weights[i] * weights[j] / total**2 * mask[0, 0, row + i - 3, column + j - 3].item()
            for i in range(7)
            for j in range(7)
            if 0 <= row + i - 3 < 40 and 0 <= column + j - 3 < 40
        )
        assert blurred(mask, 7, 1.5)[0, 0, row, column].item() == pytest.approx(expected)


def test_discriminator_s_targets_are_soft_hard_or_of_patches() -> None:
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., 30:60, 30:60] = 1
    soft = objective_of().target(mask)
    assert soft.shape == mask.shape
    assert 0 < soft[0, 0, 45, 45] < 1
    assert 0 < soft[0, 0, 45, 25] < soft[0, 0, 45, 35] < soft[0, 0, 45, 45]
    # Half a window of 71 px away the hole is no longer seen.
    assert soft[0, 0, 45, 95] == 0
    assert soft.sum().item() == pytest.approx(mask.sum().item(), rel=1e-2)
    assert torch.equal(objective_of(replace(TINY, discriminator_target="hard")).target(mask), mask)
    patch = objective_of(replace(TINY, discriminator_target="patch")).target(mask)
    assert torch.equal(patch, torch.ones_like(mask))


def test_discriminator_loss_is_two_squared_distances() -> None:
    objective, batch = objective_of(), batch_of()
    composite = -batch.image
    discriminator = objective.networks["discriminator"].eval()
    real, fake = (enlarged(discriminator(one), batch.mask) for one in (batch.image, composite))
    expected = real.square().mean() + (fake - objective.target(batch.mask)).square().mean()
    losses = objective.discriminator_losses(batch, composite)
    torch.testing.assert_close(losses["discriminator"], expected)


def test_scores_of_a_corner_reach_the_corner() -> None:
    scores = torch.arange(4.0).view(1, 1, 2, 2)
    seen = enlarged(scores, torch.zeros(1, 1, 7, 7))[0, 0]
    assert [seen[0, 0], seen[0, 6], seen[6, 0], seen[3, 3]] == [0, 1, 2, 1.5]


def test_generator_hides_the_hole_and_the_released_form_shows_it() -> None:
    mask = batch_of().mask
    nothing, everything = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    ours, code = objective_of(), objective_of(replace(TINY, adversarial_form="released"))
    assert ours.hiding(nothing, mask) == 0
    assert code.hiding(everything, mask).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(ours.hiding(3 * everything, mask), torch.tensor(9.0))
    torch.testing.assert_close(code.hiding(3 * everything, mask), torch.tensor(4.0))
    assert ours.hiding(everything, torch.zeros_like(mask)) == 0
    # Only what is seen inside the hole counts.
    left = torch.tensor([[1.0, 0.0]]).expand(2, 1, 2, 2)
    half = torch.zeros_like(mask)
    half[..., 16:] = 1
    assert ours.hiding(left, half) < ours.hiding(left, 1 - half)


def test_generator_s_losses_by_hand() -> None:
    config = replace(TINY, style_weight=250.0, perceptual_weight=0.1, perceptual_weights="random")
    objective, batch = objective_of(config), batch_of(48)
    prediction = batch.image.flip(2)
    composite = paste(prediction, batch.image, batch.mask)
    losses = objective.generator_losses(batch, prediction, composite)
    assert losses.keys() == {"image", "style", "perceptual", "adversarial"}
    torch.testing.assert_close(losses["image"], (prediction - batch.image).abs().mean())
    content, style = 0.0, 0.0
    network = load_features(19, LAYERS, "random")
    maps = [network((one + 1) / 2) for one in (prediction, batch.image)]
    for layer, seen, wanted in zip(LAYERS, *maps, strict=True):
        if layer.endswith("_1"):
            content += (seen - wanted).abs().mean().item()
        else:
            matrices = [torch.einsum("bchw,bdhw->bcd", m, m) / m[0].numel() for m in (seen, wanted)]
            style += (matrices[0] - matrices[1]).abs().mean().item()
    assert losses["perceptual"].item() == pytest.approx(0.1 * content, rel=1e-4)
    assert losses["style"].item() == pytest.approx(250 * style, rel=1e-4)


def test_gradients_are_taken_before_either_update() -> None:
    """The discriminator learns from the prediction that the generator was updated on."""
    batch = batch_of()
    one, other = objective_of(), objective_of()
    for role, network in one.networks.items():
        other.networks[role].load_state_dict(network.state_dict())
    composite = paste(
        other.generator(batch.image, batch.mask).final.detach(), batch.image, batch.mask
    )
    with torch.no_grad():  # the generator's pass comes first, with a power iteration of its own
        other.networks["discriminator"](composite)
    wanted = other.discriminator_losses(batch, composite)["discriminator"]
    torch.testing.assert_close(one.step(batch)["discriminator"], wanted.detach())


@torch.no_grad()
def test_gates_are_shown_and_blocks_without_gates_are_not() -> None:
    batch = batch_of()
    image, mask = batch.image[:1], batch.mask[:1]
    shown = intermediate_results(Generator(TINY).eval(), image, mask)
    assert list(shown) == ["gate, block 1", "gate, block 2", "final"]
    assert shown["gate, block 1"].shape == (1, 3, 8, 8)
    plain = intermediate_results(Generator(replace(TINY, residual="identity")).eval(), image, mask)
    assert list(plain) == ["final"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": ()}, "rates"),
        ({"rates": (1, 2, 3)}, "rates"),
        ({"rates": (0, 1)}, "rates"),
        ({"blur_px": 70}, "blur_px must be odd"),
        ({"blur_deviation_px": 0.0}, "blur_deviation_px"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"style_weight": -1.0}, "style_weight"),
        ({"beta1": 1.0}, "beta1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)
