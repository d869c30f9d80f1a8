"""The reference implementations of the benchmarks compute the same function."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from infill.models import architecture

REFERENCES = sorted(
    path
    for path in Path(__file__).parent.glob("*/reference.py")
    if "def naive(" in path.read_text()
)
every_reference = pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.parent.name)


def both_forms(path: Path) -> tuple[nn.Module, nn.Module, int]:
    """Return a tiny generator of a folder, as we compute it and as its authors do, in float64."""
    spec = importlib.util.spec_from_file_location(f"reference_{path.parent.name}", path)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    paper = architecture.load(path.parent.name)
    config = paper.config.tiny()
    if path.parent.name == "deepgin":  # run by the released names, of which there are so many
        config = replace(config, num_coarse_blocks=6, num_refine_blocks=6)
    torch.manual_seed(0)
    ours = paper.generator(config).double().eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.15)
    return ours, reference.naive(ours), max(64, config.size_multiple)


def inputs(side: int) -> tuple[Tensor, Tensor]:
    image = torch.rand(2, 3, side, side, dtype=torch.float64) * 2 - 1
    mask = torch.zeros(2, 1, side, side, dtype=torch.float64)
    mask[0, :, side // 4 : side // 2, side // 4 : side // 2] = 1
    mask[1, :, side // 2 :, 5:19] = 1
    return image, mask


@every_reference
def test_naive_generator_predicts_the_same_picture_with_the_same_gradients(path: Path) -> None:
    ours, naive, side = both_forms(path)
    image, mask = inputs(side)
    predicted, expected = ours(image, mask).final, naive(image, mask).final
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-5)
    assert predicted.std() > 1e-3
    weights = torch.linspace(-1, 1, predicted.numel(), dtype=predicted.dtype).view_as(predicted)
    trained = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    mine = torch.autograd.grad((predicted * weights).sum(), trained, allow_unused=True)
    theirs = torch.autograd.grad((expected * weights).sum(), trained, allow_unused=True)
    # A bias before a norm has a gradient of 0, up to rounding.
    greatest = max(gradient.abs().max().item() for gradient in theirs if gradient is not None)
    for one, other in zip(mine, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7 * greatest)


@every_reference
def test_naive_generator_has_no_parameters_of_its_own(path: Path) -> None:
    ours, naive, _ = both_forms(path)
    assert {id(p) for p in ours.parameters()} >= {id(p) for p in naive.parameters()}
    assert len(list(naive.parameters())) > 0
