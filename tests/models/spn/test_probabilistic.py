import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from infill.models.architecture import Batch
from infill.models.losses import hinge_discriminator, hinge_generator
from infill.models.spn.architecture import ARCHITECTURE
from infill.models.spn.config import SPNConfig
from infill.models.spn.probabilistic import LatentEncoder, MatchingDiscriminator
from infill.models.spn.probabilistic_objective import diversity, latent_divergence, mean_distance

TINY = replace(SPNConfig.tiny(), variant="probabilistic", perceptual_weights="random")


def batch_of(seed: int = 4, side: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(8)
    image = torch.rand(2, 3, side, side, generator=generator) * 2 - 1
    mask = torch.zeros(2, 1, side, side)
    mask[..., : side // 2] = 1
    return Batch(image=image, mask=mask, seed=seed)


def test_discriminator_has_the_published_parameters_and_buffers() -> None:
    discriminator = MatchingDiscriminator(64)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_763_841
    buffers = list(discriminator.buffers())
    assert len(buffers) == 6
    assert sum(buffer.numel() for buffer in buffers) == 8_064


@torch.no_grad()
def test_discriminator_shows_three_maps_and_patches_of_seventy_pixels() -> None:
    logits, features = MatchingDiscriminator(64).eval()(torch.rand(1, 3, 256, 256))
    assert logits.shape == (1, 1, 30, 30)
    shapes = [tuple(seen.shape[1:]) for seen in features]
    assert shapes == [(128, 64, 64), (256, 32, 32), (512, 31, 31)]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 160)])
def test_two_samples_give_two_images_of_every_image(height: int, width: int) -> None:
    generator = ARCHITECTURE.generator(TINY)
    image = torch.rand(2, 3, height, width) * 2 - 1
    mask = torch.zeros(2, 1, height, width)
    mask[..., 8:40] = 1
    noise = generator.sample_noise(image, samples=2, seed=3)
    assert noise.shape == (2, 2, 4, height // 32, width // 32)
    prediction = generator(image, mask, noise)
    assert prediction.final.shape == (4, 3, height, width)
    assert [level.shape[0] for level in prediction.prior] == [4, 4, 4]
    assert [tuple(part.shape) for part in prediction.latent] == [noise.shape[1:]] * 2


@torch.no_grad()
def test_samples_together_equal_samples_apart_in_order() -> None:
    generator = ARCHITECTURE.generator(replace(TINY, channels=8)).eval()
    batch = batch_of()
    noise = generator.sample_noise(batch.image, samples=3, seed=3) * 5
    together = generator(batch.image, batch.mask, noise).final
    apart = [generator(batch.image, batch.mask, noise[i : i + 1]).final for i in range(3)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-5)
    assert not torch.allclose(apart[0], apart[1], atol=1e-4)


@torch.no_grad()
def test_without_noise_the_latent_s_mean_is_used() -> None:
    generator = ARCHITECTURE.generator(TINY).eval()
    batch = batch_of()
    noise = torch.zeros_like(generator.sample_noise(batch.image, samples=1, seed=0))
    first = generator(batch.image, batch.mask).final
    assert torch.equal(first, generator(batch.image, batch.mask, noise).final)


def test_noise_is_a_function_of_its_seed() -> None:
    generator = ARCHITECTURE.generator(TINY)
    image = torch.zeros(1, 3, 64, 64)
    first = generator.sample_noise(image, 2, seed=1)
    torch.rand(5)
    assert torch.equal(first, generator.sample_noise(image, 2, seed=1))
    assert not torch.equal(first, generator.sample_noise(image, 2, seed=2))


def test_sizes_are_multiples_of_thirty_two() -> None:
    generator = ARCHITECTURE.generator(TINY)
    assert TINY.size_multiple == 32
    with pytest.raises(ValueError, match=r"multiples of 32.*68 x 64"):
        generator(torch.zeros(1, 3, 68, 64), torch.zeros(1, 1, 68, 64))


def test_a_collapsed_deviation_is_bounded_yet_can_recover() -> None:
    encoder = LatentEncoder(2)
    torch.nn.init.constant_(encoder.deviation.bias, -200.0)
    mean, deviation = encoder(torch.zeros(1, 8, 8, 8))
    torch.testing.assert_close(deviation, torch.full_like(deviation, 1e-3))
    assert latent_divergence(mean, deviation, "released").isfinite()
    torch.nn.init.constant_(encoder.deviation.bias, -8.0)
    latent_divergence(*encoder(torch.zeros(1, 8, 8, 8)), "released").backward()
    assert (encoder.deviation.bias.grad < 0).all()


@pytest.mark.parametrize(
    ("mean", "deviation", "released", "paper"),
    [
        (0.0, 1.0, 0.0, 0.0),
        (1.0, 1.0, 0.5, 0.5),
        (0.0, 2.0, 0.318147, 0.806853),
        (0.0, 0.5, 0.806853, 0.318147),
        (0.0, math.log(2), 0.174172, None),
    ],
)
def test_latent_divergence_is_the_one_worked_out_by_hand(
    mean: float, deviation: float, released: float, paper: float | None
) -> None:
    q = torch.full((2, 3, 1, 1), mean), torch.full((2, 3, 1, 1), deviation)
    assert latent_divergence(*q, "released").item() == pytest.approx(released, abs=1e-6)
    if paper is not None:
        assert latent_divergence(*q, "paper").item() == pytest.approx(paper, abs=1e-6)


def maps(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 2, 3, 16 >> i, 16 >> i, generator=generator) for i in range(3)]


def test_equal_samples_cost_the_inverse_of_epsilon() -> None:
    same = [level[:1].expand(2, -1, -1, -1, -1) for level in maps(1)]
    mask = torch.ones(2, 1, 16, 16)
    for form in ("released", "paper"):
        assert diversity(same, mask, form).item() == pytest.approx(1e5, rel=1e-4)


def test_diversity_is_its_formula_in_both_forms() -> None:
    seen = maps(2)
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, :8] = 1
    mask[1, :, 4:8, 4:8] = 1
    distances, shares = [], []
    for level in seen:
        small = mask[:, :, :: 16 // level.shape[-1], :: 16 // level.shape[-1]]
        difference = (level[0].double() * small - level[1].double() * small).abs()
        distances.append(difference.mean().item())
        shares.append(small.mean().item())
    summed = sum(distance / share for distance, share in zip(distances, shares, strict=True))
    assert diversity(seen, mask, "released").item() == pytest.approx(1 / (summed + 1e-5))
    inverses = [1 / (distance + 1e-5) for distance in distances]
    assert diversity(seen, mask, "paper").item() == pytest.approx(sum(inverses) / 3)


def test_a_hole_that_vanishes_at_a_coarse_layer_is_skipped_there() -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 1, 1] = 1  # between the pixels of the second and third map
    seen = [level.requires_grad_() for level in maps(3)]
    likeness = diversity(seen, mask, "released")
    likeness.backward()
    assert likeness.isfinite()
    assert all(level.grad.isfinite().all() for level in seen)
    share = 1 / 256
    distance = ((seen[0][0] - seen[0][1]).abs() * mask).mean() / share
    assert likeness.item() == pytest.approx(1 / (distance.item() + 1e-5), rel=1e-5)


def test_undecided_logits_cost_one_and_nothing() -> None:
    zeros = torch.zeros(2, 1, 3, 3)
    assert hinge_discriminator(zeros, zeros[:1]).item() == 1.0
    assert hinge_generator(zeros).item() == 0.0


def test_a_distance_counts_both_samples_against_one_original() -> None:
    predicted = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    assert mean_distance(predicted, torch.tensor([[1.0, 1.0]])).item() == (0 + 1 + 2 + 3) / 4


def test_one_step_changes_both_networks_and_neither_teacher_nor_vgg() -> None:
    objective = ARCHITECTURE.objective(
        replace(TINY, channels=8, teacher="random"), lambda network: network
    )
    frozen = [*objective.teacher.state_dict().values(), *objective.perceptual.parameters()]
    before = [tensor.clone() for tensor in frozen]
    states = {
        role: {k: v.clone() for k, v in network.state_dict().items()}
        for role, network in objective.networks.items()
    }
    losses = objective.step(batch_of())
    assert {
        *("discriminator", "prior", "image", "adversarial", "feature_matching", "perceptual"),
        *("diversity", "latent"),
    } <= losses.keys()
    assert all(torch.equal(one, other) for one, other in zip(frozen, before, strict=True))
    for role, network in objective.networks.items():
        state = network.state_dict()
        assert [k for k in state if torch.equal(state[k], states[role][k])] == []


def test_the_two_samples_of_a_step_follow_the_batch_s_seed() -> None:
    def losses(seed: int) -> dict[str, float]:
        torch.manual_seed(0)
        objective = ARCHITECTURE.objective(TINY, lambda network: network)
        return {name: value.item() for name, value in objective.step(batch_of(seed)).items()}

    first = losses(1)
    assert first == losses(1)
    assert first["diversity"] != losses(2)["diversity"]


def test_features_are_matched_map_by_map() -> None:
    objective = ARCHITECTURE.objective(TINY, lambda network: network)
    objective.networks["discriminator"].eval()
    batch = batch_of()
    seen = [torch.zeros(2, 4, 16, 16), torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 7, 7)]
    predicted = torch.cat([batch.image, -batch.image])
    _, features = objective.networks["discriminator"](predicted)
    expected = sum(level.abs().mean().item() for level in features) / 3
    found = objective.adversarial_losses(predicted, seen)["feature_matching"].item()
    assert found == pytest.approx(10 * expected, rel=1e-5)


def test_perceptual_layers_are_weighted_as_configured() -> None:
    batch = batch_of()
    predicted = torch.cat([batch.image * 0.5, batch.image * 0.2])
    objective = ARCHITECTURE.objective(TINY, lambda network: network)

    def likeness(weights: tuple[float, ...]) -> float:
        objective.config = replace(TINY, perceptual_layer_weights=weights)
        return objective.perceptual_losses(batch, predicted)["perceptual"].item()

    ones = [likeness(tuple(float(i == k) for i in range(5))) for k in range(5)]
    assert min(ones) > 0
    mixed = likeness((1.0, 2.0, 3.0, 4.0, 5.0))
    assert mixed == pytest.approx(sum((k + 1) * one for k, one in enumerate(ones)), rel=1e-5)


def test_missing_perceptual_weights_are_asked_for() -> None:
    config = replace(TINY, perceptual_weights=None)
    with pytest.raises(ValueError, match=r"perceptual_weights.*vgg19.*'random'"):
        ARCHITECTURE.objective(config, lambda network: network)
