"""Frames of any size, masks of any shape and images of any dtype, for every architecture."""

from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from infill.models import architecture
from infill.models.architecture import ModelConfig, fill
from infill.models.masking import paste

every_architecture = pytest.mark.parametrize("name", architecture.names())
KINDS = ("empty", "full", "one pixel", "thin line", "border", "noise")
sides = st.integers(min_value=1, max_value=97)
examples = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@cache
def ready_generator(name: str) -> tuple[nn.Module, ModelConfig]:
    torch.manual_seed(0)
    paper = architecture.load(name)
    config = paper.config.tiny()
    return paper.generator(config).eval(), config


def mask_of(kind: str, height: int, width: int, seed: int) -> Tensor:
    """Return one mask [1, 1, H, W] of a kind, 1 in the hole."""
    mask = torch.zeros(1, 1, height, width)
    if kind == "full":
        mask[:] = 1
    if kind == "one pixel":
        mask[..., seed % height, seed % width] = 1
    if kind == "thin line":
        mask[..., seed % height, :] = 1
    if kind == "border":
        mask[:] = 1
        mask[..., height // 4 : height - height // 4, width // 4 : width - width // 4] = 0
    if kind == "noise":
        mask = (torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()
    return mask


@every_architecture
@examples
@given(height=sides, width=sides, kind=st.sampled_from(KINDS), seed=st.integers(0, 999))
@torch.no_grad()
def test_any_size_and_mask_is_predicted_keeps_what_is_known_and_never_sees_the_hole(
    name: str, height: int, width: int, kind: str, seed: int
) -> None:
    torch.set_num_threads(1)
    generator, config = ready_generator(name)
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    mask = mask_of(kind, height, width, seed)
    predicted = fill(generator, image, mask, config.size_multiple)
    assert predicted.shape == image.shape
    assert predicted.dtype == torch.float32
    assert predicted.isfinite().all()
    assert predicted.abs().max() <= 1
    hole = mask.bool().expand_as(image)
    composite = paste(predicted, image, mask)
    assert torch.equal(composite[~hole], image[~hole])
    assert torch.equal(composite[hole], predicted[hole])
    other = torch.where(mask.bool(), -image, image)
    assert torch.equal(predicted, fill(generator, other, mask, config.size_multiple))


@every_architecture
@pytest.mark.parametrize(
    ("image_dtype", "mask_dtype", "weight_dtype"),
    [
        (torch.float16, torch.bool, torch.float32),
        (torch.bfloat16, torch.uint8, torch.float32),
        (torch.float64, torch.int64, torch.float32),
        (torch.float32, torch.float32, torch.float64),
    ],
)
@torch.no_grad()
def test_images_masks_and_weights_of_any_type_predict_the_same_picture(
    name: str, image_dtype: torch.dtype, mask_dtype: torch.dtype, weight_dtype: torch.dtype
) -> None:
    generator, config = ready_generator(name)
    # Eighths, which every type holds exactly.
    image = torch.randint(-8, 9, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)) / 8
    mask = mask_of("border", 64, 64, 0)
    expected = fill(generator, image, mask, config.size_multiple)
    try:
        generator.to(weight_dtype)
        typed = image.to(image_dtype), mask.to(mask_dtype)
        predicted = fill(generator, *typed, config.size_multiple)
    finally:
        generator.to(torch.float32)
    assert predicted.dtype == torch.float32
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-4)
