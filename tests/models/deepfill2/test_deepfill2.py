"""DeepFill v2: published counts, known outputs, gates, losses and released weights."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.architecture import Batch
from infill.models.deepfill.networks import Prediction
from infill.models.deepfill2.config import DeepFill2Config
from infill.models.deepfill2.networks import Discriminator, Gate, Generator
from infill.models.deepfill2.objective import DeepFill2Objective
from infill.models.deepfill2.weights import (
    configuration_of,
    from_released,
    read_release,
    write_release,
)

TINY = DeepFill2Config.tiny()
LISTS = Path(__file__).parents[2] / "data" / "state_dicts"


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_networks_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        generator = Generator(DeepFill2Config())
        discriminator = Discriminator(DeepFill2Config())
        without_mask = Discriminator(DeepFill2Config(mask_to_discriminator=False))
    assert count(generator) == 4_052_478
    assert count(generator.coarse) == 1_631_151
    parts = {name: count(part) for name, part in generator.refine.named_children()}
    assert parts == {
        "imagine": 990_000,
        "match": 450_192,
        "attention": 0,
        "rebuild": 332_160,
        "merge": 648_975,
    }
    assert count(discriminator) == 5_946_816
    assert count(without_mask) == 5_945_216
    assert sum(b.numel() for name, b in discriminator.named_buffers() if name[-1] == "u") == 1_216


@torch.no_grad()
def test_discriminator_scores_patches_of_an_image() -> None:
    discriminator = Discriminator(TINY)
    for size, patches in ((256, 4), (96, 2), (64, 1)):
        mask = torch.zeros(1, 1, size, size)
        scores = discriminator(torch.rand(1, 3, size, size), mask)
        assert scores.shape == (1, 4 * TINY.discriminator_channels, patches, patches)


def fill_with_known_numbers(network: nn.Module, gain: float) -> None:
    """Set every kernel by integer arithmetic, in the order of its elements, and biases to 0.01."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            n = torch.arange(module.weight.numel())
            values = ((7919 * n**2 + 104729 * n) % 65537).double() / 65537 - 0.5
            values *= math.sqrt(gain / module.weight[0].numel())
            with torch.no_grad():
                module.weight.copy_(values.view_as(module.weight))
                module.bias.fill_(0.01)


@torch.no_grad()
def test_known_weights_predict_the_released_network_s_picture() -> None:
    generator = Generator(DeepFill2Config()).double()
    fill_with_known_numbers(generator, gain=36)
    i = torch.arange(128, dtype=torch.float64)
    image = torch.stack([torch.sin(0.05 * (c + 1) * i[:, None] + 0.03 * i) for c in range(3)])
    mask = torch.zeros(1, 1, 128, 128, dtype=torch.float64)
    mask[..., 40:88, 32:96] = 1
    prediction = generator(image[None], mask)
    coarse, final = prediction.coarse, prediction.final
    assert coarse.mean().item() == pytest.approx(0.000772, abs=6e-7)
    assert coarse.std().item() == pytest.approx(0.056832, abs=6e-7)
    assert final.mean().item() == pytest.approx(-0.000332, abs=6e-7)
    assert final.std().item() == pytest.approx(0.064981, abs=6e-7)
    centre = [-0.04643, -0.01531, 0.02467]
    assert final[0, :, 64, 64].tolist() == pytest.approx(centre, abs=6e-6)


@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_gate_is_activation_times_sigmoid_with_its_gradient(activation: str) -> None:
    features = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    predicted, gate = features[:, :3], features[:, 3:]
    expected = getattr(functional, activation)(predicted) * torch.sigmoid(gate)
    gated = Gate.apply(features, activation)
    torch.testing.assert_close(gated, expected, rtol=1e-14, atol=1e-14)
    direction = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(gated, features, direction),
        torch.autograd.grad(expected, features, direction),
        rtol=1e-12,
        atol=1e-12,
    )


def batch_of(count: int) -> Batch:
    mask = torch.zeros(count, 1, 64, 64)
    mask[..., 20:40, 10:50] = 1
    return Batch(image=torch.rand(count, 3, 64, 64) * 2 - 1, mask=mask)


@torch.no_grad()
def test_second_stage_is_given_the_composite_alone() -> None:
    seen: list[Tensor] = []
    generator = Generator(TINY)
    generator.refine.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = batch_of(1)
    prediction = generator(batch.image, batch.mask)
    composite = torch.where(batch.mask.bool(), prediction.coarse, batch.image)
    assert torch.equal(seen[0], composite)


@torch.no_grad()
def test_attention_is_shown_per_cell() -> None:
    batch = batch_of(2)
    attended = Generator(TINY).most_attended(batch.image, batch.mask)
    assert attended.shape == (2, 8, 8)
    assert 0 <= attended.min() <= attended.max() < 64


@torch.no_grad()
def test_discriminator_sees_the_mask_unless_configured_otherwise() -> None:
    batch = batch_of(1)
    for sees in (True, False):
        discriminator = Discriminator(replace(TINY, mask_to_discriminator=sees)).eval()
        scores = discriminator(batch.image, batch.mask)
        same = torch.equal(scores, discriminator(batch.image, 1 - batch.mask))
        assert same is not sees


def test_scores_of_zero_cost_the_discriminator_1_and_the_generator_nothing() -> None:
    objective = DeepFill2Objective(TINY)
    # Without biases a grey image without a hole scores 0 in every patch.
    zero = torch.zeros(2, 3, 64, 64)
    batch = Batch(image=zero, mask=zero[:, :1])
    assert objective.discriminator_losses(batch, zero)["discriminator"].item() == 1
    losses = objective.generator_losses(batch, Prediction(final=zero, coarse=zero))
    assert losses["adversarial"].item() == 0


def test_both_pictures_are_held_to_the_image_everywhere() -> None:
    batch, zero = batch_of(2), torch.zeros(2, 3, 64, 64)
    objective = DeepFill2Objective(replace(TINY, coarse_weight=3.0))
    losses = objective.generator_losses(batch, Prediction(final=zero, coarse=zero - 0.5))
    torch.testing.assert_close(losses["image"], batch.image.abs().mean())
    torch.testing.assert_close(losses["coarse"], 3 * (batch.image + 0.5).abs().mean())


def test_paper_s_hinge_weighs_twice_the_released_one() -> None:
    batch = batch_of(2)
    released = DeepFill2Objective(TINY)
    paper = DeepFill2Objective(replace(TINY, discriminator_weight=1.0))
    paper.networks["discriminator"].load_state_dict(released.networks["discriminator"].state_dict())
    losses = [o.discriminator_losses(batch, -batch.image) for o in (released, paper)]
    torch.testing.assert_close(2 * losses[0]["discriminator"], losses[1]["discriminator"])


def test_fresh_halves_go_to_discriminator_and_generator() -> None:
    seen: dict[str, list[Tensor]] = {"generator": [], "discriminator": []}

    class Noted(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network
            self.role = "generator" if isinstance(network, Generator) else "discriminator"

        def forward(self, *given: Tensor) -> Tensor:
            seen[self.role].append(given[0])
            answer: Tensor = self.network(*given)
            return answer

    batch = batch_of(4)
    DeepFill2Objective(replace(TINY, discriminator_batches="fresh"), Noted).step(batch)
    assert torch.equal(seen["discriminator"][0][:2], batch.image[:2])
    assert [torch.equal(image, batch.image[2:]) for image in seen["generator"]] == [True]


def test_the_generator_s_pass_leaves_the_discriminator_without_gradients() -> None:
    objective, batch = DeepFill2Objective(TINY), batch_of(1)
    prediction = objective.generator(batch.image, batch.mask)
    torch.stack(list(objective.generator_losses(batch, prediction).values())).sum().backward()
    assert all(p.grad is None for p in objective.networks["discriminator"].parameters())
    assert all(p.grad is not None for p in objective.generator.parameters())


def test_optimizers_are_the_paper_s() -> None:
    for optimizer in DeepFill2Objective(TINY).optimizers.values():
        group = optimizer.param_groups[0]
        assert (group["lr"], group["betas"]) == (1e-4, (0.5, 0.999))


@torch.no_grad()
def test_generator_keeps_channels_last() -> None:
    generator = Generator(replace(TINY, num_dilated=1)).eval()
    batch = batch_of(1)
    plain = generator(batch.image, batch.mask).final
    generator.to(memory_format=torch.channels_last)
    last = generator(batch.image.to(memory_format=torch.channels_last), batch.mask).final
    torch.testing.assert_close(last, plain, rtol=0, atol=1e-5)
    assert last.is_contiguous(memory_format=torch.channels_last)


def released() -> dict[str, Tensor]:
    shapes = json.loads((LISTS / "deepfill2_tensorflow.json").read_text())
    return {name: torch.rand(shape) - 0.5 for name, shape in shapes.items()}


def test_every_released_tensor_goes_to_ours_and_back_unchanged() -> None:
    there = released()
    states = from_released(there)
    Generator(DeepFill2Config()).load_state_dict(states["generator"])
    Discriminator(DeepFill2Config()).load_state_dict(states["discriminator"])
    back = write_release(read_release(there))
    assert set(back) == set(there)
    assert all(torch.equal(back[name], tensor) for name, tensor in there.items())
    assert configuration_of(there) == DeepFill2Config.released()


@torch.no_grad()
def test_imported_weights_predict_what_the_released_network_predicts() -> None:
    path = Path(__file__).parents[1] / "deepfill" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    torch.manual_seed(5)
    shapes = json.loads((LISTS / "deepfill2_tensorflow.json").read_text())
    there = {}
    for name, shape in shapes.items():
        deviation = 0.1 if len(shape) == 1 else 2 * torch.Size(shape[:-1]).numel() ** -0.5
        if "discriminator" not in name:
            there[name] = torch.randn(shape, dtype=torch.float64) * deviation
    read = read_release(there)
    generator = Generator(read.config).double().eval()
    generator.load_state_dict(read.states["generator"])
    image = torch.rand(2, 3, 72, 96, dtype=torch.float64) * 2 - 1
    mask = torch.zeros(2, 1, 72, 96, dtype=torch.float64)
    mask[0, :, 16:40, 16:48] = 1
    mask[1, :, 5:21, 30:61] = 1
    predicted = generator(image, mask)
    final, coarse = reference.released_forward(there, "tensorflow", image, mask, gated=True)
    assert min(final.std(), coarse.std()) > 0.01
    torch.testing.assert_close(predicted.coarse, coarse, rtol=0, atol=1e-9)
    torch.testing.assert_close(predicted.final, final, rtol=0, atol=1e-7)


def test_imported_power_iterations_normalise_at_once() -> None:
    there = released()
    name = "discriminator/sn_patch_gan/conv2"
    matrix = there[f"{name}/kernel:0"].reshape(-1, 128).double()
    there[f"{name}/kernel_sn/u:0"] = torch.linalg.svd(matrix).Vh[:1].float()
    discriminator = Discriminator(DeepFill2Config())
    discriminator.load_state_dict(from_released(there)["discriminator"])
    normalised = discriminator.eval().convs[1].normalised_weight().flatten(1)
    assert torch.linalg.matrix_norm(normalised, 2).item() == pytest.approx(1, abs=1e-4)


def test_missing_and_left_over_tensors_are_named() -> None:
    there = released()
    bias = there.pop("inpaint_net/xconv3/bias:0")
    with pytest.raises(ValueError, match="inpaint_net/xconv3/bias"):
        from_released(there)
    there |= {"inpaint_net/xconv3/bias:0": bias, "inpaint_net/xconv3/bias/Adam:0": bias}
    with pytest.raises(ValueError, match=r"left over.*xconv3/bias/Adam"):
        from_released(there)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", 6),
        ("discriminator_channels", 0),
        ("num_dilated", -1),
        ("image_weight", -1.0),
        ("learning_rate", 0.0),
        ("beta1", 1.0),
    ],
)
def test_impossible_numbers_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        replace(DeepFill2Config(), **{field: value})
