"""MI-GAN: released counts, layouts and filters, kernels that merge, noise, losses by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.architecture import Batch, Released
from infill.models.masking import paste
from infill.models.migan.config import MIGANConfig
from infill.models.migan.discriminator import with_deviation
from infill.models.migan.layers import NormalisedConv, Resample, SeparableConv, activate, tiled
from infill.models.migan.networks import Generator, masked_input
from infill.models.migan.objective import MIGANObjective, under_mask
from infill.models.migan.teacher import CoModGAN, StyledConv, load_teacher
from infill.models.migan.visualize import intermediate_results
from infill.models.migan.weights import filters, names, networks_of, read_release, write_release

TINY = MIGANConfig.tiny()


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def objective_of(config: MIGANConfig = TINY) -> MIGANObjective:
    return MIGANObjective(config, lambda network: network)


def batch_of(count: int = 2, step: int = 0) -> Batch:
    mask = torch.zeros(count, 1, 32, 32)
    mask[..., 8:24, 8:20] = 1
    return Batch(image=torch.rand(count, 3, 32, 32) * 2 - 1, mask=mask, step=step, seed=5)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_networks_for_serving_have_the_released_numbers_of_parameters() -> None:
    # The released files hold their fixed filters as well: 16 values for every map that is halved,
    # doubled by a block or a colour doubled.
    for side, published, parameters in ((256, 5_943_617, 5_865_505), (512, 5_973_366, 5_893_158)):
        config = MIGANConfig(image_size_px=side, num_kernels=0)
        assert count(networks_of(config)["generator"]) == parameters
        fixed = [value for name, value in filters("generator", config) if "const" not in name]
        assert parameters + sum(value.numel() for value in fixed) == published


def test_layers_for_serving_have_the_released_names_and_shapes() -> None:
    config = MIGANConfig.released()
    table = names("generator", config)
    shapes = {
        table[ours][0]: tuple(tensor.shape)
        for ours, tensor in networks_of(config)["generator"].state_dict().items()
    }
    shapes |= {name: tuple(value.shape) for name, value in filters("generator", config)}
    assert len(shapes) == 154
    for name, shape in {
        "encoder.b256.fromrgb.weight": (128, 4, 1, 1),
        "encoder.b256.conv1.conv1.weight": (128, 1, 3, 3),
        "encoder.b256.conv2.downsample.filter.weight": (128, 1, 4, 4),
        "encoder.b64.conv2.conv2.weight": (512, 512, 1, 1),
        "encoder.b4.conv2.conv1.bias": (512,),
        "synthesis.b4.conv2.conv2.weight": (512, 512, 1, 1),
        "synthesis.b8.conv1.noise_const": (8, 8),
        "synthesis.b8.conv2.noise_strength": (),
        "synthesis.b256.conv1.conv2.weight": (128, 256, 1, 1),
        "synthesis.b256.conv1.upsample.filter.weight": (128, 1, 4, 4),
        "synthesis.b256.upsample.filter_const": (1, 1, 256, 256),
        "synthesis.b256.torgb.bias": (3,),
    }.items():
        assert shapes[name] == shape, name


def test_layers_in_training_have_the_released_names() -> None:
    found = {
        name
        for role in ("generator", "discriminator")
        for parts in names(role, MIGANConfig()).values()
        for name in parts
    }
    for name in (
        "encoder.b256.fromrgb.weight",
        "encoder.b256.conv1.conv2.w8",
        "synthesis.b4.torgb.w0",
        "synthesis.b8.conv1.conv2.noise_const",
        "synthesis.b256.conv2.conv2.noise_strength",
        "b256.fromrgb.w8",
        "b8.skip.w0",
        "b4.conv.conv1.bias",
        "b4.fc.weight",
        "b4.out.bias",
    ):
        assert name in found, name
    assert "encoder.b256.fromrgb.w0" not in found


@pytest.mark.parametrize("kernels", [0, 1, 2])
def test_files_are_read_and_written_back_tensor_by_tensor(kernels: int) -> None:
    config = replace(TINY, num_kernels=kernels)
    roles = ["generator", "discriminator"] if kernels else ["generator"]
    networks = objective_of(config).networks
    states = {role: networks[role].state_dict() for role in roles}
    file = write_release(Released(config=config, states=states))
    released = read_release(file)
    assert released.image_size_px == 32
    assert released.states.keys() == states.keys()
    for role, state in states.items():
        for name, tensor in state.items():
            assert torch.equal(released.states[role][name], tensor), name
    found = released.config
    assert isinstance(found, MIGANConfig)
    assert (found.num_kernels, found.widths) == (kernels, config.widths)
    assert write_release(released).keys() == file.keys()


def test_missing_misshapen_left_over_and_other_tensors_are_named() -> None:
    config = replace(TINY, num_kernels=0)
    states = {"generator": Generator(config).state_dict()}
    file, name = write_release(Released(config=config, states=states)), "synthesis.b8.torgb.bias"
    with pytest.raises(ValueError, match=f"lacks 1 tensor, first {name}"):
        read_release({key: value for key, value in file.items() if key != name})
    with pytest.raises(ValueError, match=f"{name} should have the shape"):
        read_release({**file, name: torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 tensor too many, first extra"):
        read_release({**file, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="not a file of MI-GAN"):
        read_release({"other": torch.zeros(1)})
    trained = "encoder.b32.conv2.downsample.filter.weight"
    with pytest.raises(ValueError, match=f"{trained} is not the binomial filter"):
        read_release({**file, trained: file[trained] + 1})


@torch.no_grad()
def test_parallel_kernels_merge_into_one_that_computes_the_same() -> None:
    conv = NormalisedConv(6, 4, 3, num_kernels=9, groups=2).double()
    features = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    one = NormalisedConv(6, 4, 3, num_kernels=0, groups=2).double()
    assert conv.bias is not None
    one.load_state_dict({"weight": conv.merged(), "bias": conv.bias})
    torch.testing.assert_close(one(features), conv(features))
    norms = conv.merged().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    kernel = sum(conv.kernels[index][3] for index in range(9)) / 3
    torch.testing.assert_close(conv.merged()[3], kernel / math.sqrt((kernel**2).sum()))


@torch.no_grad()
def test_resampling_is_zeros_between_and_a_binomial_filter() -> None:
    features = torch.randn(1, 2, 4, 6, dtype=torch.float64)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    kernel = (taps[:, None] * taps).expand(2, 1, 4, 4)
    spread = torch.zeros(1, 2, 8, 12, dtype=torch.float64)
    spread[..., ::2, ::2] = features
    padded = functional.pad(spread, (2, 1, 2, 1))
    larger = 4 * functional.conv2d(padded, kernel, groups=2)
    torch.testing.assert_close(Resample(doubles=True).double()(features), larger)
    smaller = functional.conv2d(functional.pad(features, (1, 1, 1, 1)), kernel, groups=2)
    torch.testing.assert_close(Resample(doubles=False).double()(features), smaller[..., ::2, ::2])


def test_activation_slopes_gains_and_limits() -> None:
    values = torch.tensor([-1000.0, -1.0, 0.0, 2.0, 1000.0])
    root = math.sqrt(2)
    expected = torch.tensor([-200 * root, -0.2 * root, 0.0, 2 * root, 256.0]).clamp(-256, 256)
    torch.testing.assert_close(activate(values), expected)
    torch.testing.assert_close(activate(values, 0.5), expected / 2)


@torch.no_grad()
def test_noise_is_added_by_its_strength_and_repeats_beyond_its_size() -> None:
    layer = SeparableConv(2, 3, num_kernels=1, noise_px=4)
    features = torch.randn(1, 2, 4, 4)
    without = layer(features)
    layer.strength.fill_(0.5)
    assert not torch.equal(layer(features), without)
    same = layer(features, noise=layer.noise.expand(1, 1, 4, 4))
    torch.testing.assert_close(same, layer(features))
    other = layer(features, noise=torch.zeros(1, 1, 4, 4))
    torch.testing.assert_close(other, without)
    wide = tiled(layer.noise, torch.zeros(1, 1, 6, 9))
    assert wide.shape == (6, 9)
    assert torch.equal(wide[4:, :4], layer.noise[:2])
    assert torch.equal(wide[:4, 8], layer.noise[:, 0])


def test_random_noise_depends_on_its_seed_alone_and_has_every_size() -> None:
    generator, image = Generator(TINY), batch_of().image
    noise = generator.random_noise(image, seed=3)
    assert [pair[0].shape[-1] for pair in noise] == [8, 16, 32]
    torch.manual_seed(99)
    again, other = generator.random_noise(image, 3), generator.random_noise(image, 4)
    assert torch.equal(noise[1][0], again[1][0])
    assert not torch.equal(noise[1][0], other[1][0])
    assert not torch.equal(noise[1][0], noise[1][1])


@torch.no_grad()
def test_sizes_up_to_the_last_add_their_colours_to_the_picture() -> None:
    batch = batch_of(1)
    prediction = Generator(TINY)(batch.image, batch.mask)
    assert [tuple(c.shape[-2:]) for c in prediction.colours] == [(s, s) for s in (4, 8, 16, 32)]
    picture, enlarge = prediction.colours[0], Resample(doubles=True)
    for colours in prediction.colours[1:]:
        picture = enlarge(picture) + colours
    torch.testing.assert_close(prediction.unclipped, picture)
    assert torch.equal(prediction.final, picture.clamp(-1, 1))
    shown = intermediate_results(Generator(TINY), batch.image, batch.mask)
    assert list(shown) == ["4 px", "8 px", "16 px", "32 px", "final"]


@torch.no_grad()
def test_known_pixels_are_marked_by_a_half() -> None:
    batch = batch_of()
    given = masked_input(batch.image, batch.mask)
    assert torch.equal(given[:, :1], 0.5 - batch.mask)
    assert (given[:, 1:][batch.mask.bool().expand_as(batch.image)] == 0).all()
    assert torch.equal(under_mask(batch.image, batch.mask)[:, 1:], batch.image)


def test_deviation_is_that_of_groups_of_every_second_image() -> None:
    features = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    appended = with_deviation(features, 2)
    assert torch.equal(appended[:, :3], features)
    first = (features[::2].var(dim=0, correction=0) + 1e-8).sqrt().mean()
    second = (features[1::2].var(dim=0, correction=0) + 1e-8).sqrt().mean()
    assert appended[::2, 3].flatten().tolist() == pytest.approx([first.item()] * 8)
    assert appended[1::2, 3].flatten().tolist() == pytest.approx([second.item()] * 8)
    assert with_deviation(features[:3], 2)[0, 3, 0, 0].item() == pytest.approx(1e-4)


def test_losses_by_hand() -> None:
    objective, batch = objective_of(replace(TINY, image_weight=2.0)), batch_of()
    discriminator = objective.networks["discriminator"]
    prediction = objective.generated(batch, 1)
    losses = objective.generator_losses(batch, prediction)
    composite = paste(prediction.unclipped, batch.image, batch.mask)
    fake, real = (discriminator(under_mask(one, batch.mask)) for one in (composite, batch.image))
    torch.testing.assert_close(losses["adversarial"], -functional.logsigmoid(fake).mean())
    wrong = ((prediction.unclipped - batch.image).abs() * batch.mask).mean()
    torch.testing.assert_close(losses["image"], 2 * wrong)
    found = objective.discriminator_losses(batch, prediction.unclipped.detach())
    expected = -functional.logsigmoid(real).mean() - functional.logsigmoid(-fake).mean()
    torch.testing.assert_close(found["discriminator"], expected)
    originals = under_mask(batch.image, batch.mask).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(originals).sum(), originals)
    penalty = 16 * 5 * slope.square().sum() / len(slope)
    torch.testing.assert_close(found["penalty"].detach(), penalty)


def test_slope_is_penalised_every_sixteenth_step() -> None:
    objective = objective_of()
    penalised = [
        step for step in range(33) if "penalty" in losses_of(objective, batch_of(step=step))
    ]
    assert penalised == [0, 16, 32]
    without = objective_of(replace(TINY, penalty_weight=0.0))
    assert "penalty" not in losses_of(without, batch_of())


def losses_of(objective: MIGANObjective, batch: Batch) -> dict[str, Tensor]:
    return objective.discriminator_losses(batch, -batch.image)


def test_discriminator_learns_from_the_generator_just_updated() -> None:
    batch = batch_of()
    again, once = objective_of(replace(TINY, generates_again=True)), objective_of()
    for role, network in again.networks.items():
        once.networks[role].load_state_dict(network.state_dict())
    first, second = again.step(batch), once.step(batch)
    assert torch.equal(first["adversarial"], second["adversarial"])
    assert not torch.equal(first["discriminator"], second["discriminator"])


def test_learning_rates_are_corrected_as_released() -> None:
    objective = objective_of(replace(TINY, random_noise=True))
    objective.step_with_accumulation(batch_of())
    rates = {role: opt.param_groups[0]["lr"] for role, opt in objective.optimizers.items()}
    assert rates == pytest.approx({"generator": 0.0008, "discriminator": 0.001 * 16 / 17})


TAUGHT = replace(TINY, distillation_weight=2.0, teacher_weights="random", distillation_start_px=16)


def test_teacher_has_the_public_network_s_parameters_and_names() -> None:
    with torch.device("meta"):
        teacher = CoModGAN(MIGANConfig())
    assert count(teacher) == 79_177_378
    shapes = {name: tuple(tensor.shape) for name, tensor in teacher.state_dict().items()}
    for name, shape in {
        "mapping.fc7.weight": (512, 512),
        "encoder.b256.fromrgb.weight": (128, 4, 1, 1),
        "encoder.b256.conv1.weight": (256, 128, 3, 3),
        "encoder.b4.fc.weight": (1024, 8192),
        "synthesis.b4.fc.weight": (8192, 1024),
        "synthesis.b4.conv.noise_const": (4, 4),
        "synthesis.b8.conv0.affine.weight": (512, 1536),
        "synthesis.b256.conv1.noise_strength": (),
        "synthesis.b256.torgb.weight": (3, 128, 1, 1),
    }.items():
        assert shapes[name] == shape, name


@torch.no_grad()
@pytest.mark.parametrize("doubles", [False, True])
def test_teacher_s_styles_weigh_kernels_of_norm_1(doubles: bool) -> None:
    layer = StyledConv(3, 2, styles=5, side=8 if doubles else 4, doubles=doubles).double()
    layer.noise_strength.fill_(0.7)
    layer.bias.copy_(torch.tensor([0.3, -0.4]))
    features = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    style = torch.randn(2, 5, dtype=torch.float64)
    found = layer(features, style)
    for sample in range(2):
        scales = style[sample] @ layer.affine.weight.T / math.sqrt(5) + 1
        kernel = layer.weight * scales[:, None, None]
        kernel = kernel / (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        given = features[sample : sample + 1]
        if doubles:
            # Zeros between the values, the kernel turned, the binomial filter.
            spread = torch.zeros(1, 3, 9, 9, dtype=torch.float64)
            spread[..., 1:8:2, 1:8:2] = given
            convolved = functional.conv2d(spread, kernel.flip(2, 3), padding=1)
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
            window = (taps[:, None] * taps).expand(2, 1, 4, 4)
            convolved = 4 * functional.conv2d(convolved, window, padding=1, groups=2)
        else:
            convolved = functional.conv2d(given, kernel, padding=1)
        expected = convolved + 0.7 * layer.noise_const + layer.bias[:, None, None]
        torch.testing.assert_close(found[sample : sample + 1], activate(expected))


def test_student_is_held_to_the_teacher_s_colours_inside_the_hole() -> None:
    objective, batch = objective_of(TAUGHT), batch_of()
    teacher = objective.teacher
    assert teacher is not None
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    prediction = objective.generated(batch, 1)
    latent = teacher.random_latent(2, batch.seed, batch.image)
    wanted = teacher(masked_input(batch.image, batch.mask), latent)
    assert [c.shape for c in wanted] == [c.shape for c in prediction.colours]
    expected = torch.zeros(())
    for index, every in ((-2, 2), (-1, 1)):  # 16 and 32 px
        hole = batch.mask[..., ::every, ::every]
        apart = (prediction.colours[index] - wanted[index]).abs() * hole
        expected = expected + apart.mean()
    losses = objective.generator_losses(batch, prediction)
    torch.testing.assert_close(losses["distillation"], 2 * expected)
    assert "distillation" in objective.step(batch)


def test_teacher_imagines_by_the_seed_and_sees_nothing_of_the_hole() -> None:
    teacher, batch = load_teacher(TAUGHT), batch_of()
    latents = [teacher.random_latent(2, seed, batch.image) for seed in (1, 1, 2)]
    assert torch.equal(latents[0], latents[1])
    masked = masked_input(batch.image, batch.mask)
    first, other = (teacher(masked, latent)[-1] for latent in latents[1:])
    assert not torch.equal(first, other)
    assert torch.equal(first, teacher(masked, latents[0])[-1])


def test_teacher_s_file_is_read_strictly(tmp_path: Path) -> None:
    state = load_teacher(TAUGHT).state_dict()
    file = tmp_path / "comodgan.pt"
    config = replace(TAUGHT, teacher_weights=str(file))
    torch.save({**state, "mapping.w_avg": torch.zeros(8)}, file)
    assert all(torch.equal(t, state[n]) for n, t in load_teacher(config).state_dict().items())
    torch.save({**state, "mapping.fc9.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"not Co-Mod-GAN for 32 px: 1 .* first mapping\.fc9"):
        load_teacher(config)
    with pytest.raises(ValueError, match="SHA-256"):
        load_teacher(replace(config, teacher_sha256="0" * 64))
    with pytest.raises(ValueError, match="there is no file"):
        load_teacher(replace(config, teacher_weights=str(tmp_path / "none.pt")))
    with pytest.raises(ValueError, match="distillation needs teacher_weights"):
        load_teacher(replace(config, teacher_weights=None))
    with pytest.raises(ValueError, match="frames of 32 px, not 64 x 32"):
        load_teacher(TAUGHT)(torch.zeros(1, 4, 64, 32), torch.zeros(1, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size_px": 48}, "power of 2"),
        ({"image_size_px": 4}, "power of 2"),
        ({"channel_base": 16}, "channel_base"),
        ({"num_kernels": -1}, "num_kernels"),
        ({"group_size": 0}, "group_size"),
        ({"penalty_every_steps": 0}, "penalty_every_steps"),
        ({"penalty_weight": -1.0}, "penalty_weight"),
        ({"beta2": 1.0}, "beta2"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)
