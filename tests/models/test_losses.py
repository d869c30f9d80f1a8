import math

import pytest
import torch
from torch import nn

from infill.models.losses import (
    detached,
    frozen,
    hinge_discriminator,
    hinge_generator,
    non_saturating_discriminator,
    non_saturating_generator,
    weighted_l1,
)


def sigmoid_log(value: float) -> float:
    return -math.log(1 / (1 + math.exp(-value)))


def test_weighted_l1_is_the_mean_over_every_element() -> None:
    prediction = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    weight = torch.tensor([[1.0], [3.0]])
    target = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    loss = weighted_l1(prediction, target, weight)
    assert loss.item() == (0.5 + 2 + 1.5 + 9) / 4


def test_non_saturating_losses_are_cross_entropies_of_logits() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    fake_losses = 0.5 * (
        (sigmoid_log(2.0) + sigmoid_log(-1.0)) / 2 + (sigmoid_log(-0.5) + sigmoid_log(-3.0)) / 2
    )
    assert non_saturating_discriminator(real, fake).item() == pytest.approx(fake_losses)
    passed = (sigmoid_log(0.5) + sigmoid_log(3.0)) / 2
    assert non_saturating_generator(fake).item() == pytest.approx(passed)


def test_hinge_losses_stop_beyond_their_margin() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])
    assert hinge_discriminator(real, fake).item() == 0.5 * (0.5 + 1.0)
    assert hinge_generator(fake).item() == 0.5


def test_frozen_parameters_get_no_gradient_and_are_thawed_even_after_an_error() -> None:
    network = nn.Linear(2, 1)
    network.bias.requires_grad_(False)
    entry = torch.ones(1, 2, requires_grad=True)
    with frozen(network) as still:
        still(entry).sum().backward()
    assert entry.grad.any()
    assert network.weight.grad is None
    with pytest.raises(RuntimeError, match="on purpose"), frozen(network):
        raise RuntimeError("on purpose")
    assert network.weight.requires_grad
    assert not network.bias.requires_grad


def test_detached_losses_keep_names_and_values() -> None:
    loss = nn.Parameter(torch.tensor(3.0)) * 2
    reported = detached({"term": loss})
    assert reported["term"].item() == 6
    assert not reported["term"].requires_grad
