"""DeepGIN guided by a label map of the whole image."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from infill.models.architecture import Batch, fill
from infill.models.deepgin.config import DeepGINConfig
from infill.models.deepgin.networks import Generator
from infill.models.deepgin.objective import DeepGINObjective

GUIDED = replace(DeepGINConfig.tiny(), segmentation_guided=True)


def frame(height: int = 64, width: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image, a mask and a label map of two regions."""
    torch.manual_seed(0)
    image, mask = torch.rand(2, 3, height, width) * 2 - 1, torch.zeros(2, 1, height, width)
    mask[..., 16:40, 16:40] = 1
    labels = torch.full_like(image, -1.0)
    labels[..., : height // 2, :] = 0.5
    return image, mask, labels


@torch.no_grad()
def test_the_label_map_counts_inside_the_hole_too() -> None:
    generator = Generator(GUIDED).eval()
    image, mask, labels = frame()
    before = generator(image, mask, labels)
    labels[..., 20:30, 20:30] = 1.0
    after = generator(image, mask, labels)
    assert not torch.equal(before.coarse, after.coarse)
    assert not torch.equal(before.final, after.final)


@torch.no_grad()
def test_a_label_map_is_padded_with_the_image() -> None:
    generator = Generator(GUIDED).eval()
    image, mask, labels = frame(64, 80)
    whole = fill(generator, image, mask, 16, labels)
    assert torch.equal(whole, generator(image, mask, labels).final)
    cut = fill(generator, *(one[..., :57, :71] for one in (image, mask)), 16, labels[..., :57, :71])
    assert cut.shape == (2, 3, 57, 71)


def test_a_missing_label_map_and_one_too_many_are_refused() -> None:
    image, mask, labels = frame()
    with pytest.raises(ValueError, match="segmentation_guided needs a label map"):
        Generator(GUIDED)(image, mask)
    with pytest.raises(ValueError, match="without segmentation_guided takes no label map"):
        Generator(DeepGINConfig.tiny())(image, mask, labels)


def test_a_step_learns_from_label_maps_in_parts_as_well() -> None:
    torch.manual_seed(0)
    objective = DeepGINObjective(GUIDED)
    image, mask, labels = frame()
    batch = Batch(image=image, mask=mask, keys=("a", "b"), mask_ids=("a", "b"), labels=labels)
    losses = objective.step(batch)
    assert all(loss.isfinite() for loss in losses.values())
    network = objective.generator
    for first in (network.coarse.encoder[0], network.refine.encoder[0]):  # type: ignore[union-attr]
        assert first.weight.grad[:, 4:].abs().sum() > 0  # type: ignore[union-attr]
    halves = batch.cut(2)
    assert [torch.equal(part.labels, labels[i : i + 1]) for i, part in enumerate(halves)] == [
        True
    ] * 2
