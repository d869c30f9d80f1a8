from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from infill.models.architecture import Batch
from infill.models.masking import paste
from infill.models.pennet.config import PENNetConfig
from infill.models.pennet.networks import Prediction
from infill.models.pennet.objective import PENNetObjective, pooled_l1, pyramid_l1

TINY = PENNetConfig.tiny()


def batch_at(step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(9)
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 16:48, 16:48] = 1
    image = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    return Batch(image=image, mask=mask, step=step)


class Fixed(nn.Module):
    """Replaces a discriminator and returns given scores."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize(
    ("adversarial", "discriminator", "generator"),
    [
        ("hinge", 0.25, 0.125),
        # Softplus of -2, -0.5, -2, -0.5 twice; then of 2 and 0.5.
        ("nsgan", (0.126928011 + 0.474076984) / 2, 0.1 * (2.126928011 + 0.974076984) / 2),
        # sigmoid(2) = 0.880797, sigmoid(0.5) = 0.622459.
        (
            "lsgan",
            (0.119202922**2 + 0.377540669**2) / 2,
            0.1 * (0.880797078**2 + 0.622459331**2) / 2,
        ),
    ],
)
def test_adversarial_losses_of_given_logits(
    adversarial: str, discriminator: float, generator: float
) -> None:
    objective = PENNetObjective(replace(TINY, adversarial=adversarial))
    batch = batch_at()
    objective.prepared["discriminator"] = Fixed([2.0, 0.5, -2.0, -0.5])
    losses = objective.discriminator_losses(batch.image, batch.image)
    assert losses["discriminator"].item() == pytest.approx(discriminator, abs=1e-7)

    objective.networks["discriminator"] = Fixed([-2.0, -0.5])
    prediction = Prediction(batch.image, (batch.image,))
    losses = objective.generator_losses(batch, prediction, batch.image)
    assert losses["adversarial"].item() == pytest.approx(generator, abs=1e-7)


def test_hinge_generator_term_is_a_tenth_of_the_mean_logit() -> None:
    objective = PENNetObjective(TINY)
    objective.networks["discriminator"] = Fixed([-2.0, -0.5])
    batch = batch_at()
    losses = objective.generator_losses(batch, Prediction(batch.image, (batch.image,)), batch.image)
    assert losses["adversarial"].item() == pytest.approx(0.1 * 1.25)
    assert [losses[term].item() for term in ("pyramid", "hole", "known")] == [0, 0, 0]


def test_the_larger_hole_weighs_more_in_the_pooled_loss() -> None:
    region = torch.zeros(2, 1, 16, 16)
    region[0, :, :8, :8] = 1  # 1/4, with an error of 1
    region[1, :, :4, :4] = 1  # 1/16, with an error of 0.2
    prediction = torch.tensor([1.0, 0.2])[:, None, None, None].expand(2, 3, 16, 16)
    loss = pooled_l1(prediction, torch.zeros(2, 3, 16, 16), region)
    assert loss.item() == pytest.approx(0.84)


def test_losses_of_constant_pictures() -> None:
    objective = PENNetObjective(TINY)
    objective.networks["discriminator"] = Fixed([0.0])
    batch = replace(batch_at(), image=torch.full((2, 3, 64, 64), -0.25))
    pyramid = tuple(torch.zeros(2, 3, 64 >> n, 64 >> n) for n in (5, 4, 3, 2, 1))
    final = torch.full((2, 3, 64, 64), 0.5)
    losses = objective.generator_losses(batch, Prediction(final, pyramid), final)
    found = {name: value.item() for name, value in losses.items()}
    assert found == pytest.approx(
        {"pyramid": 0.5 * 1.25, "hole": 6 * 0.75, "known": 0.75, "adversarial": 0.0}
    )
    assert sum(found.values()) == pytest.approx(5.875)


def test_pyramid_is_compared_with_corners_on_corners() -> None:
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    smaller = functional.interpolate(image, (8, 8), mode="bilinear", align_corners=True)
    assert pyramid_l1((smaller, image), image) == 0
    assert smaller[0, 0, 0, 0] == image[0, 0, 0, 0]
    assert pyramid_l1((smaller + 0.5, image - 0.25), image).item() == pytest.approx(0.75)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_batch_without_hole_or_without_known_pixels_is_finite(share: float) -> None:
    objective = PENNetObjective(TINY)
    batch = replace(batch_at(), mask=torch.full((2, 1, 64, 64), share))
    losses = objective.step(batch)
    assert losses["hole" if share == 0 else "known"] == 0
    assert losses["known" if share == 0 else "hole"] > 0
    for network in objective.networks.values():
        assert all(p.grad.isfinite().all() for p in network.parameters())


def test_step_names_each_weighted_term_and_the_generator_meets_the_new_discriminator() -> None:
    objective = PENNetObjective(TINY)
    batch = batch_at()
    prediction = objective.generator(batch.image, batch.mask)
    losses = objective.step(batch)
    assert {"discriminator", "pyramid", "hole", "known", "adversarial"} <= losses.keys()
    assert losses["hole"] == pytest.approx(
        6 * pooled_l1(prediction.final, batch.image, batch.mask).item(), rel=1e-5
    )
    composite = paste(prediction.final.detach(), batch.image, batch.mask)
    # In evaluation the discriminator keeps the vectors its last training pass left.
    logits = objective.networks["discriminator"].eval()(composite)
    assert losses["adversarial"] == pytest.approx(-0.1 * logits.mean().item(), rel=1e-4)


def test_generator_pass_leaves_the_discriminator_without_gradients() -> None:
    objective = PENNetObjective(TINY)
    batch = batch_at()
    prediction = objective.generator(batch.image, batch.mask)
    composite = paste(prediction.final, batch.image, batch.mask)
    losses = objective.generator_losses(batch, prediction, composite)
    torch.stack(list(losses.values())).sum().backward()
    discriminator = objective.networks["discriminator"]
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())


def test_adversarial_gradient_reaches_the_picture_in_the_hole_only() -> None:
    objective = PENNetObjective(TINY)
    batch = batch_at()
    final = torch.zeros(2, 3, 64, 64, requires_grad=True)
    composite = paste(final, batch.image, batch.mask)
    losses = objective.generator_losses(batch, Prediction(final, (final,)), composite)
    (gradient,) = torch.autograd.grad(losses["adversarial"], final)
    assert gradient[batch.mask.expand_as(gradient) == 1].any()
    assert not gradient[batch.mask.expand_as(gradient) == 0].any()


def test_without_deep_supervision_every_parameter_still_has_a_gradient() -> None:
    objective = PENNetObjective(replace(TINY, pyramid_weight=0.0))
    before = [p.clone() for p in objective.generator.heads.parameters()]
    losses = objective.step(batch_at())
    assert losses["pyramid"] == 0
    assert all(p.grad is not None for p in objective.generator.parameters())
    after = objective.generator.heads.parameters()
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize(
    ("drops", "rates"),
    [
        ((100_000, 200_000, 300_000), [1e-4, 1e-4, 1e-5, 1e-6, 1e-7]),  # DTD
        ((100_000,), [1e-4, 1e-4, 1e-5, 1e-5, 1e-5]),  # Places2
        ((), [1e-4] * 5),  # CelebA-HQ, Facade
    ],
)
def test_learning_rate_falls_to_a_tenth_at_the_named_steps(drops, rates) -> None:
    config = replace(TINY, learning_rate_drop_steps=drops)
    steps = (1, 99_999, 100_000, 200_000, 300_000)
    assert [config.published_learning_rate("generator", step) for step in steps] == pytest.approx(
        rates
    )
    objective = PENNetObjective(config)
    objective.step_with_accumulation(batch_at(200_000))
    for optimizer in objective.optimizers.values():
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rates[3])
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)
        assert optimizer.param_groups[0]["eps"] == 1e-8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 6}, "multiple of 4, not 6"),
        ({"discriminator_channels": 0}, "discriminator_channels"),
        ({"attention_level": 6}, "1 \\(finest\\) to 5, not 6"),
        ({"softmax_scale": 0.0}, "softmax_scale"),
        ({"hole_weight": -1.0}, "hole_weight"),
        ({"beta1": 1.0}, "beta1"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_impossible_numbers_are_refused_on_construction(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_as_printed_the_full_size_picture_is_learned_from_the_pyramid_loss_alone() -> None:
    def gradient(config: PENNetConfig) -> float:
        objective = PENNetObjective(config)
        batch = batch_at()
        prediction = objective.networks["generator"](batch.image, batch.mask)
        losses = objective.generator_losses(batch, prediction, batch.image)
        losses["pyramid"].backward()
        last = objective.networks["generator"].out.weight.grad
        return 0.0 if last is None else float(last.abs().sum())

    printed = replace(PENNetConfig.as_printed(), channels=TINY.channels, discriminator_channels=4)
    assert (printed.hole_weight, printed.known_weight) == (0, 0)
    assert gradient(printed) > 0
    assert gradient(replace(printed, pyramid_has_final=False)) == 0
    assert gradient(TINY) == 0
