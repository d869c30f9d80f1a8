"""The arithmetic of the losses, by hand and by definition."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from infill.models.deepfill.terms import (
    blend,
    box_discount,
    critic_loss,
    generator_loss,
    masked_gradient_penalty,
    mean_over,
    window_corners,
    windows,
)


def box(size: int, top: int, left: int, bottom: int, right: int) -> Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., top:bottom, left:right] = 1
    return mask


def test_a_shrunk_hole_keeps_its_window() -> None:
    predicted = torch.Generator().manual_seed(0)
    masks, boxes = [], []
    for _ in range(200):
        top, left = torch.randint(0, 128, (2,), generator=predicted).tolist()
        down, across = torch.randint(0, 17, (2,), generator=predicted).tolist()
        masks.append(box(256, top + down, left + across, top + 128 - down, left + 128 - across))
        boxes.append([top, left])
    assert window_corners(torch.cat(masks), 128).tolist() == boxes


def test_windows_of_other_holes_stay_in_the_frame() -> None:
    masks = [
        box(64, 0, 60, 3, 64),  # in a corner
        box(64, 10, 20, 11, 21),  # one pixel
        box(64, 0, 0, 64, 64),  # everything
        torch.zeros(1, 1, 64, 64),
        box(64, 4, 5, 10, 12) + box(64, 40, 30, 44, 33),  # two parts
    ]
    corners = window_corners(torch.cat(masks), 32).tolist()
    assert corners == [[0, 32], [0, 4], [16, 16], [16, 16], [8, 3]]


def test_windows_are_cut_where_their_corners_are() -> None:
    picture = torch.rand(2, 3, 10, 12)
    cut = windows(picture, torch.tensor([[0, 8], [5, 3]]), 4)
    assert torch.equal(cut[0], picture[0, :, 0:4, 8:12])
    assert torch.equal(cut[1], picture[1, :, 5:9, 3:7])


@pytest.mark.parametrize(("rate", "mean"), [(0.9, 0.252920537), (0.99, 0.816086878)])
def test_box_discount_equals_its_definition(rate: float, mean: float) -> None:
    weights = box_discount(128, rate)
    defined = [
        [max(rate ** min(i, 128 - i), rate ** min(j, 128 - j)) for j in range(128)]
        for i in range(128)
    ]
    assert torch.equal(weights, torch.tensor(defined))
    assert weights.double().mean().item() == pytest.approx(mean, abs=1e-8)
    assert (weights[0] == 1).all()
    assert weights[127, 127].item() == pytest.approx(rate)
    assert weights[64, 64].item() == pytest.approx(rate**64)


def test_mean_over_a_region_is_taken_per_image() -> None:
    error = torch.ones(2, 3, 4, 4)
    error[1] = 3
    region = torch.zeros(2, 1, 4, 4)
    region[0, :, :1] = 1
    region[1] = 1
    assert mean_over(error, region).item() == 2
    assert mean_over(error, torch.zeros(2, 1, 4, 4)).item() == 0


@pytest.mark.parametrize(
    ("gan", "critic", "generator"),
    [
        ("wgan_gp", -0.25 - 0.5, 0.25),
        ("hinge", 0.5 * ((1 - 0.5) + (1 - 0.25)), 0.25),
        (
            "dcgan",
            0.5 * (math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-0.25))),
            math.log1p(math.exp(0.25)),
        ),
        ("lsgan", 0.5 * (0.25 + 0.0625), 1.5625),
    ],
)
def test_games_by_hand(gan: str, critic: float, generator: float) -> None:
    real, fake = torch.tensor([0.5, 0.5]), torch.tensor([-0.25, -0.25])
    assert critic_loss(gan, real, fake).item() == pytest.approx(critic)
    assert generator_loss(gan, fake).item() == pytest.approx(generator)


def test_a_blend_lies_between_and_collects_a_gradient() -> None:
    real, fake = torch.zeros(2, 3, 4, 4, requires_grad=True), torch.ones(2, 3, 4, 4)
    blended = blend(real, fake, torch.tensor([0.25, 1.0]))
    assert blended[0].unique().tolist() == [0.25]
    assert blended[1].unique().tolist() == [1.0]
    assert blended.is_leaf
    assert blended.requires_grad


def test_penalty_of_a_known_slope_counts_the_hole_only() -> None:
    mask = box(256, 64, 64, 192, 192)
    slope = torch.full((1, 3, 256, 256), 0.01)
    penalty = masked_gradient_penalty(slope, mask).item()
    assert math.sqrt(3 * 128**2) * 0.01 == pytest.approx(2.217025, abs=1e-6)
    assert penalty == pytest.approx(1.481150, abs=1e-5)
    elsewhere = torch.where(mask.bool(), slope, 7.0 * torch.ones_like(slope))
    assert masked_gradient_penalty(elsewhere, mask).item() == penalty


def test_penalty_of_no_slope_has_a_finite_gradient() -> None:
    slope = torch.zeros(1, 3, 4, 4, requires_grad=True)
    masked_gradient_penalty(slope, torch.ones(1, 1, 4, 4)).backward()
    assert slope.grad is not None
    assert slope.grad.isfinite().all()


def test_penalty_trains_a_critic_through_the_gradient_of_its_gradient() -> None:
    torch.manual_seed(0)
    critic = torch.nn.Conv2d(3, 1, 3).double()
    picture = torch.rand(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.float64)

    def penalty() -> Tensor:
        scores = functional.leaky_relu(critic(picture), 0.2).sum()
        slopes = torch.autograd.grad(scores, picture, create_graph=True)
        return masked_gradient_penalty(slopes[0], mask)

    penalty().backward()
    assert critic.weight.grad is not None
    step = 1e-6
    with torch.no_grad():
        critic.weight[0, 1, 2, 0] += step
    above = penalty().item()
    with torch.no_grad():
        critic.weight[0, 1, 2, 0] -= 2 * step
    slope = (above - penalty().item()) / (2 * step)
    assert critic.weight.grad[0, 1, 2, 0].item() == pytest.approx(slope, rel=1e-5)
