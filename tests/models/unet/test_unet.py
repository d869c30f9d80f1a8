"""The U-Net: its first guess, its loss by hand, and that it learns what the guess lacks."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from infill.models.architecture import Batch
from infill.models.prefill import prefill
from infill.models.unet.config import UNetConfig
from infill.models.unet.networks import Generator
from infill.models.unet.objective import UNetObjective, discounted_l1

TINY = UNetConfig.tiny()


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def edges(count: int, seed: int, side: int = 32) -> Batch:
    """Return images of two colours with a straight edge through the middle, and box holes."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    turn = torch.rand(count, 1, 1, generator=generator) * 2 * math.pi
    offset = (torch.rand(count, 1, 1, generator=generator) - 0.5) * 0.4
    across = torch.cos(turn) * x + torch.sin(turn) * y - offset
    colors = torch.rand(2, count, 3, 1, 1, generator=generator) * 1.6 - 0.8
    image = torch.where((across > 0)[:, None], colors[0], colors[1])
    mask = torch.zeros(count, 1, side, side)
    mask[..., side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    return Batch(image=image, mask=mask)


def error(prediction: Tensor, batch: Batch) -> float:
    return float(((prediction - batch.image).square() * batch.mask).sum() / batch.mask.sum() / 3)


def test_training_starts_near_the_first_guess_and_known_pixels_stay() -> None:
    batch = edges(2, seed=1)
    prediction = Generator(TINY).eval()(batch.image, batch.mask)
    guess = prefill(batch.image, batch.mask)
    assert torch.equal(prediction.first_guess, guess)
    assert 0 < (prediction.final - guess).abs().max() < 0.1
    known = (batch.mask == 0).expand_as(batch.image)
    assert torch.equal(prediction.final[known], batch.image[known])


def test_it_learns_edges_that_the_first_guess_blurs() -> None:
    """Images that it never saw, in every direction: a tenth of the guess's error and more goes."""
    objective = UNetObjective(replace(TINY, learning_rate=3e-3), lambda network: network)
    for step in range(100):
        objective.step(edges(8, seed=100 + step))
    unseen = edges(64, seed=1)
    with torch.no_grad():
        prediction = objective.generator.eval()(unseen.image, unseen.mask)
    assert error(prediction.final, unseen) < 0.9 * error(prediction.first_guess, unseen)


def test_the_loss_by_hand() -> None:
    """A hole of 3 x 3: its middle is two steps in and weighs half, in two images as in one."""
    mask = torch.zeros(1, 1, 5, 5)
    mask[..., 1:4, 1:4] = 1
    image = torch.zeros(1, 3, 5, 5)
    prediction = torch.full_like(image, 7.0)
    prediction[..., 1:4, 1:4] = 0.2
    prediction[..., 2, 2] = 0.6
    wanted = (8 * 0.2 + 0.5 * 0.6) / 8.5
    loss = discounted_l1(prediction, image, mask, 0.5)
    assert loss == pytest.approx(wanted, abs=1e-6)
    twice = [one.expand(2, -1, -1, -1) for one in (prediction, image, mask)]
    assert discounted_l1(twice[0], twice[1], twice[2], 0.5) == pytest.approx(wanted, abs=1e-6)
    assert discounted_l1(prediction, image, mask, 1.0) == pytest.approx(2.2 / 9, abs=1e-6)
    assert discounted_l1(prediction, image, torch.zeros_like(mask), 0.5) == 0


def test_sizes_are_multiples_of_all_halvings() -> None:
    assert UNetConfig().size_multiple == 64
    assert TINY.size_multiple == 16
    with pytest.raises(ValueError, match="multiples of 16 px, not 32 x 40"):
        Generator(TINY)(torch.zeros(1, 3, 32, 40), torch.zeros(1, 1, 32, 40))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"channels": (8,)}, "channels"),
        ({"channels": (8, 0)}, "channels"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"discount_rate": 0.0}, "discount_rate"),
        ({"discount_rate": 1.1}, "discount_rate"),
        ({"hole_weight": 0.0}, "hole_weight"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"beta2": 1.0}, "beta2"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(TINY, **fields)
