"""DeepGIN's losses by hand, its two stages, its schedule."""

from dataclasses import replace

import pytest
import torch

from infill.models.architecture import Batch
from infill.models.deepgin.config import DeepGINConfig
from infill.models.deepgin.networks import Prediction
from infill.models.deepgin.objective import (
    DeepGINObjective,
    distance,
    gram_matrix,
    hinge,
    hole_l1,
    total_variation,
)
from infill.models.losses import hinge_generator

TINY = DeepGINConfig.tiny()


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def batch_at(step: int, count: int = 2) -> Batch:
    image = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mask = torch.zeros(count, 1, 64, 64)
    mask[..., 16:40, 20:50] = 1
    return Batch(image=image, mask=mask, step=step)


def test_errors_in_the_hole_weigh_five_times() -> None:
    picture, image = torch.full((2, 3, 4, 4), 0.75), torch.full((2, 3, 4, 4), 0.25)
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :1] = 1
    assert hole_l1(picture, image, mask, 5.0).item() == pytest.approx(1.0)


def test_variation_of_one_bright_pixel() -> None:
    picture = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert total_variation(picture, "squared").item() == pytest.approx(2.0)
    assert total_variation(picture, "absolute").item() == pytest.approx(1.0)


def test_hinge_of_constant_judgements() -> None:
    real = torch.full((1, 4, 3, 3), 0.3), torch.full((1, 4, 2, 2), -2.0)
    nothing = torch.full((1, 4, 3, 3), -5.0), torch.full((1, 4, 2, 2), -5.0)
    assert sum(hinge(a, b) for a, b in zip(real, nothing, strict=True)) == pytest.approx(3.7)
    sure = torch.full((1, 4, 3, 3), 5.0), torch.full((1, 4, 2, 2), 5.0)
    assert sum(hinge(a, b) for a, b in zip(sure, real, strict=True)) == pytest.approx(1.3)
    assert sum(hinge_generator(fake) for fake in real) == pytest.approx(1.7)


def test_gram_matrix_of_ones() -> None:
    gram = gram_matrix(torch.ones(1, 2, 2, 2))
    assert torch.equal(gram, torch.full((1, 2, 2), 0.5))
    assert distance(gram, "squared").item() == pytest.approx(0.25)
    assert distance(gram, "absolute").item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("epoch", "rate"), [(1, 1e-4), (11, 1e-4), (12, 9.8889e-5), (56, 5e-5), (100, 1.1111e-6)]
)
def test_learning_rate_falls_linearly_after_eleven_epochs(epoch: int, rate: float) -> None:
    config = DeepGINConfig(epoch_steps=7, warm_up_epochs=10, decay_epochs=90)
    for step in (7 * (epoch + 9), 7 * (epoch + 9) + 6):
        assert config.published_learning_rate("generator", step) == pytest.approx(rate, rel=1e-4)
        assert config.published_learning_rate("discriminator", step) == pytest.approx(
            4 * rate, rel=1e-4
        )
    assert config.published_learning_rate("generator", 0) == 1e-4


def test_first_stage_is_l1_alone_and_leaves_the_discriminators() -> None:
    objective = DeepGINObjective(replace(TINY, warm_up_epochs=1, epoch_steps=2))
    before = {k: v.clone() for k, v in objective.networks["discriminator"].state_dict().items()}
    for step in (0, 1):
        assert set(objective.step(batch_at(step))) == {"coarse", "output", "small"}
    after = objective.networks["discriminator"].state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    losses = objective.step(batch_at(2))
    assert set(losses) == {
        *("coarse", "output", "small", "adversarial", "variation", "perceptual", "style"),
        "discriminator",
    }
    changed = objective.networks["discriminator"].state_dict()
    assert not torch.equal(changed["whole.convs.0.weight"], before["whole.convs.0.weight"])


def test_second_stage_begins_with_fresh_optimizers() -> None:
    objective = DeepGINObjective(replace(TINY, warm_up_epochs=1, epoch_steps=3))
    for step in range(3):
        objective.step(batch_at(step))
    steps = {int(s["step"]) for s in objective.optimizers["generator"].state.values()}
    assert steps == {3}
    objective.step(batch_at(3))
    steps = {int(s["step"]) for s in objective.optimizers["generator"].state.values()}
    assert steps == {1}


def test_discriminators_score_as_they_did_before_their_own_update() -> None:
    objective = DeepGINObjective(TINY)
    discriminator = objective.networks["discriminator"].eval()
    batch = batch_at(0)
    with torch.no_grad():
        predicted = objective.generator(batch.image, batch.mask).unclipped
        image = (batch.image + 1) / 2
        completed = torch.where(batch.mask.bool(), predicted, image)
        white = image.masked_fill(batch.mask.bool(), 1.0)
        scores = zip(discriminator(white, image), discriminator(white, completed), strict=True)
        expected = 0.5 * sum(hinge(real, fake) for real, fake in scores)
    losses = objective.step(batch)
    torch.testing.assert_close(losses["discriminator"], expected)


def test_coarse_network_alone_counts_its_picture_once() -> None:
    config = replace(TINY, refine=False, back_projection=False, attention="none")
    losses = DeepGINObjective(config).step(batch_at(0))
    assert "coarse" in losses
    assert "output" not in losses
    assert "small" not in losses


def test_perfect_pictures_cost_nothing_but_their_own_variation() -> None:
    objective = DeepGINObjective(TINY)
    batch = batch_at(0)
    image = (batch.image + 1) / 2
    small = torch.nn.functional.interpolate(
        image, scale_factor=0.25, mode="bilinear", align_corners=True
    )
    perfect = Prediction(batch.image, image, image, small)
    assert all(v == 0 for v in objective.picture_losses(perfect, image, batch.mask).values())
    features, textures = objective.compared(image, image, image)
    assert features == 0
    assert textures == 0


def test_original_is_looked_at_without_a_graph_and_layers_weigh_as_configured() -> None:
    batch = batch_at(0)
    image = (batch.image + 1) / 2
    predicted = (image + 0.1 * torch.rand_like(image)).requires_grad_()
    last = replace(TINY, perceptual_layer_weights=(0.0, 0.0, 0.0, 0.0, 2.0))
    objective = DeepGINObjective(last)
    features, _ = objective.compared(predicted, image, image)
    with torch.no_grad():
        seen = objective.perceptual(predicted)[-1] - objective.perceptual(image)[-1]
    torch.testing.assert_close(features, 2.0 * seen.abs().mean())
    features.backward()
    assert predicted.grad.abs().max() > 0


def test_taps_are_after_four_relus_and_before_the_last() -> None:
    objective = DeepGINObjective(replace(TINY, perceptual_size_px=64))
    image = torch.rand(1, 3, 96, 80)
    maps = objective.perceptual(objective.resized(image))
    assert maps[0].shape[-2:] == (64, 64)
    assert [bool((one < 0).any()) for one in maps] == [False, False, False, False, True]
    before = DeepGINObjective(replace(TINY, perceptual_taps="before_relu")).perceptual(image)
    assert all(bool((one < 0).any()) for one in before)


def test_training_without_vgg_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="perceptual_weights"):
        DeepGINObjective(replace(TINY, perceptual_weights=None))
    without = replace(TINY, perceptual_weights=None, perceptual_weight=0.0, style_weight=0.0)
    assert "style" not in DeepGINObjective(without).step(batch_at(0))


def test_one_step_changes_every_trained_tensor_and_nothing_frozen() -> None:
    objective = DeepGINObjective(replace(TINY, initial_gain=1.0))
    before = {
        role: {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for role, network in objective.networks.items()
    }
    frozen = {name: tensor.clone() for name, tensor in objective.perceptual.state_dict().items()}
    objective.step(batch_at(0))
    for role, network in objective.networks.items():
        for name, parameter in network.named_parameters():
            if not name.endswith("phi.bias"):
                assert not torch.equal(parameter, before[role][name]), f"{role}.{name}"
    for name, tensor in objective.perceptual.state_dict().items():
        assert torch.equal(tensor, frozen[name]), name
