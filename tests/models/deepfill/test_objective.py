"""DeepFill v1's step: the images of each update, and the values of the losses."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from infill.models.architecture import Batch
from infill.models.deepfill.config import DeepFillConfig
from infill.models.deepfill.networks import Prediction
from infill.models.deepfill.objective import DeepFillObjective, blend_shares, divided, fractions
from infill.models.deepfill.terms import box_discount, window_corners, windows
from infill.models.masking import distance_to_known

TINY = DeepFillConfig.tiny()
FRESH = replace(TINY, critic_batches="fresh")


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return


def batch_of(count: int, step: int = 0) -> Batch:
    predicted = torch.Generator().manual_seed(7)
    mask = torch.zeros(count, 1, 64, 64)
    for index in range(count):
        mask[index, :, 8 + index : 30 + index, 20 : 44 - 2 * index] = 1
    return Batch(
        image=torch.rand(count, 3, 64, 64, generator=predicted) * 2 - 1,
        mask=mask,
        keys=tuple(f"photo{i}" for i in range(count)),
        mask_ids=tuple(f"hole{i}" for i in range(count)),
        step=step,
        seed=3,
    )


def published_case() -> tuple[DeepFillObjective, Batch, Prediction]:
    config = replace(DeepFillConfig(), channels=2)
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., 64:192, 64:192] = 1
    batch = Batch(image=torch.ones(1, 3, 256, 256), mask=mask)
    nothing = torch.zeros(1, 3, 256, 256)
    return DeepFillObjective(config), batch, Prediction(final=nothing, coarse=nothing)


def test_an_error_of_one_everywhere_costs_the_published_amounts() -> None:
    objective, batch, prediction = published_case()
    losses = objective.reconstruction_losses(batch, prediction)
    assert (losses["hole_coarse"] + losses["hole"]).item() == pytest.approx(1.2 * 0.5564252)
    assert (losses["known_coarse"] + losses["known"]).item() == pytest.approx(1.2 * 2.2)
    assert sum(losses.values()).item() == pytest.approx(3.3077102)
    assert losses["hole_coarse"].item() == pytest.approx(1.2 * losses["hole"].item())


def test_discount_by_distance_counts_the_hole_s_own_pixels() -> None:
    config = replace(TINY, discount="distance")
    batch, zero = batch_of(2), torch.zeros(2, 3, 64, 64)
    loss = DeepFillObjective(config).discounted_l1(batch, zero)
    expected = []
    for image, mask in zip(batch.image, batch.mask, strict=True):
        weights = 0.9 ** distance_to_known(mask[None], 16)[0]
        inside = mask.bool().expand_as(image)
        expected.append((image.abs() * weights)[inside].mean())
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_weights_of_zero_leave_a_term_out() -> None:
    batch, zero = batch_of(1), torch.zeros(1, 3, 64, 64)
    prediction = Prediction(final=zero, coarse=zero)

    def losses(**changes: float) -> dict[str, float]:
        terms = DeepFillObjective(replace(TINY, **changes)).reconstruction_losses(batch, prediction)
        return {name for name, value in terms.items() if value > 0}

    assert losses() == {"hole_coarse", "hole", "known_coarse", "known"}
    assert losses(refined_factor=0.0) == {"hole_coarse", "known_coarse"}
    assert losses(known_weight=0.0) == {"hole_coarse", "hole"}


def test_critics_minimise_the_wasserstein_distance_and_both_penalties() -> None:
    config = replace(TINY, penalty_weight=10.0)
    objective, batch = DeepFillObjective(config), batch_of(2)
    composite = torch.rand(2, 3, 64, 64) * 2 - 1
    losses = objective.critic_losses(batch, composite, blend_shares([batch, batch])[1])

    corners = window_corners(batch.mask, 32)
    critics = objective.networks["discriminator"]
    for view, size, cut in (
        ("whole", 64, lambda picture: picture),
        ("window", 32, lambda picture: windows(picture, corners, 32)),
    ):
        critic = getattr(critics, view)
        real, fake, hole = cut(batch.image), cut(composite), cut(batch.mask)
        assert real.shape[-1] == size
        distance = critic(fake).mean() - critic(real).mean()
        torch.testing.assert_close(losses[f"critic_{view}"], distance)
        penalties = []
        for i, t in enumerate(fractions(batch, f"{view} 1")):
            between = (real[i] + t * (fake[i] - real[i]))[None].requires_grad_()
            slope = torch.autograd.grad(critic(between).sum(), between)[0]
            penalties.append(((slope * hole[i]).norm() - 1) ** 2)
        torch.testing.assert_close(
            losses[f"penalty_{view}"], 10 * torch.stack(penalties).mean(), rtol=1e-4, atol=1e-5
        )
    assert set(losses) == {"critic_whole", "critic_window", "penalty_whole", "penalty_window"}


@pytest.mark.parametrize("gan", ["hinge", "dcgan", "lsgan"])
def test_other_games_have_no_penalty_and_train_every_network(gan: str) -> None:
    objective = DeepFillObjective(replace(TINY, gan=gan))
    losses = objective.step(batch_of(2))
    assert not [name for name in losses if name.startswith("penalty")]
    for network in objective.networks.values():
        assert all(p.grad is not None for p in network.parameters())


def test_generator_has_the_losses_of_both_critics() -> None:
    objective, batch = DeepFillObjective(TINY), batch_of(2)
    prediction = objective.generator(batch.image, batch.mask)
    losses = objective.generator_losses(batch, prediction)
    composite = torch.where(batch.mask.bool(), prediction.final, batch.image)
    window = windows(composite, window_corners(batch.mask, 32), 32)
    scores = objective.networks["discriminator"](composite, window)
    expected = -0.001 * (scores.whole.mean() + scores.window.mean())
    torch.testing.assert_close(losses["adversarial"], expected)


def test_the_generator_s_pass_leaves_the_critics_without_gradients() -> None:
    objective, batch = DeepFillObjective(TINY), batch_of(2)
    prediction = objective.generator(batch.image, batch.mask)
    torch.stack(list(objective.generator_losses(batch, prediction).values())).sum().backward()
    critics = objective.networks["discriminator"]
    assert all(p.grad is None and p.requires_grad for p in critics.parameters())
    assert all(p.grad is not None for p in objective.generator.parameters())


def test_the_critics_pass_leaves_the_generator_without_gradients() -> None:
    objective, batch = DeepFillObjective(TINY), batch_of(2)
    ((part, composite),) = objective.composites([batch])
    torch.stack(
        list(objective.critic_losses(part, composite, blend_shares([part])[0]).values())
    ).sum().backward()
    assert all(p.grad is None for p in objective.generator.parameters())


class Counted(nn.Module):
    """Replaces a prepared network and records its arguments."""

    def __init__(self, network: nn.Module, calls: list[tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.network, self.calls = network, calls

    def forward(self, *given: Tensor) -> Tensor:
        self.calls.append(given)
        answer: Tensor = self.network(*given)
        return answer


def counted() -> tuple[list[list[tuple[Tensor, ...]]], Callable[[nn.Module], nn.Module]]:
    calls: list[list[tuple[Tensor, ...]]] = []

    def prepare(network: nn.Module) -> nn.Module:
        calls.append([])
        return Counted(network, calls[-1])

    return calls, prepare


def test_fresh_updates_see_a_slice_each_and_the_generator_the_last() -> None:
    calls, prepare = counted()
    batch = batch_of(6)
    DeepFillObjective(FRESH, prepare).step(batch)
    generator_calls, critic_calls = calls
    assert len(critic_calls) == 2
    assert torch.equal(critic_calls[0][0][:2], batch.image[:2])
    assert torch.equal(critic_calls[1][0][:2], batch.image[2:4])
    assert critic_calls[0][0].shape[0] == 6  # originals, composites, blends
    assert len(generator_calls) == 1
    assert torch.equal(generator_calls[0][0], batch.image[4:])


def test_shared_updates_see_the_whole_batch() -> None:
    calls, prepare = counted()
    batch = batch_of(2)
    DeepFillObjective(TINY, prepare).step(batch)
    assert [torch.equal(given[0][:2], batch.image) for given in calls[1]] == [True, True]
    assert torch.equal(calls[0][0][0], batch.image)


def test_critics_are_updated_as_often_as_configured_and_the_generator_once() -> None:
    objective = DeepFillObjective(replace(FRESH, critic_updates=3))
    objective.step(batch_of(4))
    for role, steps in (("discriminator", 3), ("generator", 1)):
        for state in objective.optimizers[role].state.values():
            assert state["step"] == steps


def test_a_batch_that_cannot_be_dealt_out_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"3 equal slices.*4 samples.*multiple of 3"):
        DeepFillObjective(FRESH).step(batch_of(4))


def test_images_of_another_size_than_the_critics_are_refused() -> None:
    objective = DeepFillObjective(replace(TINY, image_size_px=128))
    with pytest.raises(ValueError, match=r"128.*64 x 64"):
        objective.step(batch_of(1))


def test_slices_of_two_workers_are_the_slices_of_the_global_batch() -> None:
    whole = batch_of(6)
    alone = divided(whole, 3)
    shares = [
        divided(Batch(image=whole.image[r::2], mask=whole.mask[r::2], keys=whole.keys[r::2]), 3)
        for r in (0, 1)
    ]
    for part, (first, second) in zip(alone, zip(*shares, strict=True), strict=True):
        assert set(part.keys) == {*first.keys, *second.keys}


def test_a_sample_s_blend_is_the_same_on_whatever_worker() -> None:
    batch = batch_of(4)
    moved = replace(
        batch,
        image=batch.image[2:],
        mask=batch.mask[2:],
        keys=batch.keys[2:],
        mask_ids=batch.mask_ids[2:],
        seed=99,
    )
    assert fractions(moved, "x") == fractions(batch, "x")[2:]
    assert fractions(batch, "y") != fractions(batch, "x")
    assert fractions(replace(batch, step=1), "x") != fractions(batch, "x")


def test_blends_are_spread_evenly_over_zero_to_one() -> None:
    batch = Batch(image=torch.empty(4000, 3, 0, 0), mask=torch.empty(4000, 1, 0, 0))
    predicted = torch.tensor(fractions(batch, "x"))
    assert 0 <= predicted.min() < 0.01
    assert 0.99 < predicted.max() <= 1
    assert predicted.mean().item() == pytest.approx(0.5, abs=0.02)
    assert predicted.var().item() == pytest.approx(1 / 12, abs=0.004)


def test_while_the_coarse_network_is_warmed_up_nothing_else_moves() -> None:
    objective = DeepFillObjective(replace(TINY, coarse_steps=1))
    before = {
        f"{role}.{name}": parameter.clone()
        for role, network in objective.networks.items()
        for name, parameter in network.named_parameters()
    }

    def moved() -> set[str]:
        return {
            ".".join(f"{role}.{name}".split(".")[:2])
            for role, network in objective.networks.items()
            for name, parameter in network.named_parameters()
            if not torch.equal(parameter, before[f"{role}.{name}"])
        }

    losses = objective.step(batch_of(2, step=0))
    assert moved() == {"generator.coarse"}
    assert all(p.grad is not None for p in objective.generator.parameters())
    assert set(losses) == {"hole_coarse", "hole", "known_coarse", "known"}
    objective.step(batch_of(2, step=1))
    assert moved() == {
        "generator.coarse",
        "generator.refine",
        "discriminator.whole",
        "discriminator.window",
    }


def test_optimizers_are_the_paper_s() -> None:
    for optimizer in DeepFillObjective(TINY).optimizers.values():
        assert isinstance(optimizer, torch.optim.Adam)
        group = optimizer.param_groups[0]
        assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.5, 0.9), 0)


def test_training_on_one_batch_brings_the_picture_nearer() -> None:
    objective = DeepFillObjective(replace(TINY, learning_rate=2e-3))
    batch = replace(batch_of(2), image=torch.full((2, 3, 64, 64), 0.5))
    first = objective.step(batch)
    for step in range(1, 15):
        last = objective.step(replace(batch, step=step))
    assert last["hole"] < 0.7 * first["hole"]


def test_the_discount_in_use_is_that_of_the_window() -> None:
    assert torch.equal(DeepFillObjective(TINY).box_discount, box_discount(32, 0.9))
