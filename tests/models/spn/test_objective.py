import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from infill.models.architecture import Batch
from infill.models.losses import non_saturating_discriminator, non_saturating_generator
from infill.models.spn.architecture import ARCHITECTURE
from infill.models.spn.config import SPNConfig
from infill.models.spn.networks import Prediction
from infill.models.spn.objective import SPNObjective, prior_loss

TINY = SPNConfig.tiny()


def batch_of(step: int = 0, side: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(8)
    image = torch.rand(2, 3, side, side, generator=generator) * 2 - 1
    mask = torch.zeros(2, 1, side, side)
    mask[..., : side // 2] = 1
    return Batch(image=image, mask=mask, step=step, seed=4)


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def prediction_off_by(error: float, objective: SPNObjective, batch: Batch) -> Prediction:
    """Return a prediction whose every colour and prior is off by ``error``, in [0, 1]."""
    targets = objective.teacher(batch.image)
    return Prediction(batch.image + 2 * error, tuple(target + error for target in targets))


def test_losses_of_a_constant_error_are_those_worked_out_by_hand() -> None:
    objective, batch = SPNObjective(TINY), batch_of()
    losses = objective.generator_losses(batch, prediction_off_by(0.01, objective, batch))
    # Half of every image is hole: (1 + 2 / 2) * 0.01, weighted by 10; 3 * (1 + 3 / 2) * 0.01.
    assert losses["image"].item() == pytest.approx(10 * 2 * 0.01, rel=1e-5)
    assert losses["prior"].item() == pytest.approx(7.5 * 0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("field", "term", "factor"),
    [
        ("image_weight", "image", 3.0),
        ("prior_weight", "prior", 3.0),
        ("adversarial_weight", "adversarial", 3.0),
    ],
)
def test_each_weight_scales_its_own_term(field: str, term: str, factor: float) -> None:
    torch.manual_seed(0)
    plain = SPNObjective(TINY).step(batch_of())
    torch.manual_seed(0)
    weighted = SPNObjective(replace(TINY, **{field: factor * getattr(TINY, field)}))
    scaled = weighted.step(batch_of())
    for name, value in plain.items():
        expected = value * factor if name == term else value
        torch.testing.assert_close(scaled[name], expected, rtol=1e-5, atol=0)


def test_emphasis_counts_errors_in_the_hole_only() -> None:
    batch = batch_of()
    known = (1 - batch.mask).expand_as(batch.image)
    for emphasis, factor in ((2.0, 1.5), (4.0, 2.5)):
        objective = SPNObjective(replace(TINY, hole_emphasis=emphasis))
        outside = objective.image_losses(batch, batch.image + 0.2 * known)["image"]
        inside = objective.image_losses(batch, batch.image + 0.2 * batch.mask)["image"]
        assert outside.item() == pytest.approx(10 * 0.1 * 0.5, rel=1e-5)
        assert inside.item() == pytest.approx(10 * 0.1 * factor, rel=1e-5)


def test_prior_loss_against_a_repeated_target_in_a_loop() -> None:
    generator = torch.Generator().manual_seed(2)
    prior = torch.randn(4, 3, 8, 12, generator=generator)  # two predictions of two images
    target = torch.randn(2, 3, 4, 6, generator=generator)
    mask = (torch.rand(2, 1, 16, 24, generator=generator) > 0.5).float()
    total = 0.0
    for index in range(4):
        for row in range(8):
            for column in range(12):
                error = prior[index, :, row, column] - target[index % 2, :, row // 2, column // 2]
                weight = 1 + 3 * mask[index % 2, 0, 2 * row, 2 * column]
                total += (error.abs().double() * weight).sum().item()
    found = prior_loss(prior, target, mask, 3.0)
    assert found.item() == pytest.approx(total / prior.numel(), rel=1e-5)


def test_undecided_logits_cost_the_logarithm_of_two() -> None:
    zeros = torch.zeros(2, 1, 3, 3)
    assert non_saturating_discriminator(zeros, zeros).item() == pytest.approx(math.log(2))
    assert non_saturating_generator(zeros).item() == pytest.approx(math.log(2))


def test_one_step_changes_both_networks_and_not_the_teacher() -> None:
    objective = SPNObjective(replace(TINY, channels=8, teacher="random"))
    before = {role: tensors_of(network) for role, network in objective.networks.items()}
    taught = tensors_of(objective.teacher)
    losses = objective.step(batch_of())
    assert {"discriminator", "prior", "image", "adversarial"} <= losses.keys()
    for role, network in objective.networks.items():
        unchanged = [k for k, v in network.named_parameters() if torch.equal(v, before[role][k])]
        assert unchanged == []
    assert all(torch.equal(v, taught[k]) for k, v in objective.teacher.state_dict().items())


def test_the_discriminator_s_pass_leaves_the_generator_alone_and_the_other_way() -> None:
    objective, batch = SPNObjective(TINY), batch_of()
    prediction = objective.prepared_generator(batch.image, batch.mask)
    sum(objective.discriminator_losses(batch.image, prediction.final.detach()).values()).backward()
    assert all(p.grad is None for p in objective.generator.parameters())
    objective.networks["discriminator"].zero_grad()
    sum(objective.generator_losses(batch, prediction).values()).backward()
    assert all(p.grad is None for p in objective.networks["discriminator"].parameters())
    assert all(p.requires_grad for p in objective.networks["discriminator"].parameters())
    assert all(p.grad is not None for p in objective.generator.parameters())


class Counted(nn.Module):
    """Stands where DDP does, and counts the calls that would reduce gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, *inputs: Tensor) -> object:
        self.calls += 1
        return self.network(*inputs)


@pytest.mark.parametrize("variant", ["deterministic", "probabilistic"])
def test_each_wrapped_network_is_called_once_a_step(variant: str) -> None:
    wrapped: list[Counted] = []

    def prepare(network: nn.Module) -> nn.Module:
        wrapped.append(Counted(network))
        return wrapped[-1]

    config = replace(TINY, variant=variant, perceptual_weights="random")
    objective = ARCHITECTURE.objective(config, prepare)
    for step in range(2):
        objective.step(batch_of(step, side=64))
    assert [part.calls for part in wrapped] == [2, 2]


def test_the_prior_loss_stops_at_its_step_and_heads_stay_in_the_graph() -> None:
    objective = SPNObjective(replace(TINY, prior_stop_step=5))
    assert objective.step(batch_of(4))["prior"] > 0
    heads = tensors_of(objective.generator.heads)
    assert objective.step(batch_of(5))["prior"] == 0
    for parameter in objective.generator.heads.parameters():
        assert not parameter.grad.any()
    for key, tensor in objective.generator.heads.state_dict().items():
        assert torch.equal(tensor, heads[key])


def test_without_distillation_there_is_no_prior_term() -> None:
    objective = SPNObjective(replace(TINY, prior_weight=0.0, teacher="asl"))
    assert objective.teacher is None
    assert "prior" not in objective.step(batch_of())
    assert all(p.grad is not None for p in objective.generator.parameters())


def test_the_learning_rate_drops_once_and_follows_the_step_alone() -> None:
    objective = SPNObjective(replace(TINY, learning_rate_drop_step=3, learning_rate=1e-3))
    for step, expected in ((2, 1e-3), (3, 1e-4), (900, 1e-4), (0, 1e-3)):
        objective.step_with_accumulation(batch_of(step))
        rates = [g["lr"] for o in objective.optimizers.values() for g in o.param_groups]
        assert rates == pytest.approx([expected, expected])


def test_the_optimizers_are_the_paper_s_by_default() -> None:
    optimizers = SPNObjective(TINY).optimizers
    assert list(optimizers) == ["generator", "discriminator"]
    for optimizer in optimizers.values():
        assert optimizer.defaults["lr"] == 1e-4
        assert optimizer.defaults["betas"] == (0.0, 0.9)
        assert optimizer.defaults["eps"] == 1e-8
        assert optimizer.defaults["weight_decay"] == 0


def test_fewer_prior_levels_are_taught_by_the_coarsest_maps() -> None:
    objective = SPNObjective(replace(TINY, prior_levels=2))
    batch = batch_of()
    coarse, middle, _ = objective.teacher(batch.image)
    perfect = Prediction(batch.image, (coarse, middle))
    assert objective.generator_losses(batch, perfect)["prior"] == 0


def test_a_few_steps_bring_the_prediction_nearer() -> None:
    config = replace(TINY, channels=8, learning_rate=2e-3, adversarial_weight=0.01)
    objective = SPNObjective(config)
    smooth = torch.linspace(-0.8, 0.8, 32).expand(2, 3, 32, 32)
    batch = replace(batch_of(), image=smooth)
    terms = [objective.step(replace(batch, step=step)) for step in range(30)]
    assert terms[-1]["image"] < 0.5 * terms[0]["image"]
    assert terms[-1]["prior"] < terms[0]["prior"]
