import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from infill.models.masking import (
    crop_to,
    distance_to_known,
    hide,
    hole_ratio,
    pad_to_multiple,
    paste,
    whitened,
)


def image_and_mask(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    mask = (torch.rand(2, 1, height, width, generator=generator) > 0.6).float()
    return image, mask


def test_hidden_pixels_are_zero_and_known_ones_untouched() -> None:
    image, mask = image_and_mask(5, 7)
    image[0, :, 2, 3] = torch.nan
    mask[0, 0, 2, 3] = 1
    hidden = hide(image, mask)
    for row in range(5):
        for column in range(7):
            expected = 0.0 if mask[0, 0, row, column] else image[0, 1, row, column]
            assert hidden[0, 1, row, column] == expected


def test_composite_takes_the_hole_from_the_prediction_bit_for_bit() -> None:
    image, mask = image_and_mask(5, 7)
    prediction = torch.full_like(image, 1 / 3)
    prediction[:, :, 0, 0] = torch.nan
    mask[:, :, 0, 0] = 0
    composite = paste(prediction, image, mask)
    inside = mask.bool().expand_as(image)
    assert torch.equal(composite[inside], prediction[inside])
    assert torch.equal(composite[~inside], image[~inside])


def test_gradients_reach_the_prediction_in_the_hole_only() -> None:
    image, mask = image_and_mask(4, 4)
    prediction = torch.zeros_like(image, requires_grad=True)
    paste(prediction, image, mask).sum().backward()
    assert torch.equal(prediction.grad, mask.expand_as(image))


def test_hole_ratio_is_each_image_s_own() -> None:
    mask = torch.zeros(3, 1, 4, 5)
    mask[1, :, :2] = 1
    mask[2] = 1
    assert hole_ratio(mask).tolist() == [0.0, 0.5, 1.0]


def test_padding_reflects_image_and_mask_alike() -> None:
    image, mask = image_and_mask(17, 18)
    padded_image, padded_mask = pad_to_multiple(image, mask, 4)
    assert padded_image.shape == (2, 3, 20, 20)
    for added, source in ((17, 15), (18, 14), (19, 13)):
        assert torch.equal(padded_image[:, :, added, :18], image[:, :, source])
        assert torch.equal(padded_mask[:, :, added, :18], mask[:, :, source])


def test_a_fitting_frame_is_not_copied() -> None:
    image, mask = image_and_mask(16, 20)
    padded = pad_to_multiple(image, mask, 4)
    assert padded[0] is image
    assert padded[1] is mask


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    height=some.integers(1, 40), width=some.integers(1, 40), multiple=some.sampled_from([1, 4, 32])
)
def test_any_frame_is_padded_to_the_next_multiple_and_cropped_back(
    height: int, width: int, multiple: int
) -> None:
    image, mask = image_and_mask(height, width)
    padded_image, padded_mask = pad_to_multiple(image, mask, multiple)
    padded_height, padded_width = padded_image.shape[-2:]
    assert padded_height % multiple == 0
    assert padded_width % multiple == 0
    for padded, side in ((padded_height, height), (padded_width, width)):
        assert padded >= 16
        assert padded - max(side, 16) < multiple
    assert padded_mask.shape == (2, 1, padded_height, padded_width)
    assert set(padded_mask.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(crop_to(padded_image, height, width), image)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(height=some.integers(1, 40), width=some.integers(1, 40))
def test_padding_never_shows_what_a_hole_hides(height: int, width: int) -> None:
    image, mask = image_and_mask(height, width)
    padded_image, padded_mask = pad_to_multiple(image, mask, 16)
    other_image, other_mask = pad_to_multiple(torch.where(mask.bool(), 0.5, image), mask, 16)
    assert torch.equal(padded_mask, other_mask)
    assert torch.equal(hide(padded_image, padded_mask), hide(other_image, other_mask))


def test_distance_counts_steps_to_the_nearest_known_pixel() -> None:
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., 2:9, 3:8] = 1
    mask[..., 5, 5] = 0
    known = (mask[0, 0] == 0).nonzero().tolist()
    expected = torch.tensor(
        [[min(max(abs(i - k), abs(j - n)) for k, n in known) for j in range(12)] for i in range(12)]
    )
    assert torch.equal(distance_to_known(mask, 9)[0, 0].int(), expected.int())


def test_distance_continues_beyond_the_frame_and_stops_at_its_limit() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :5] = 1
    assert distance_to_known(mask, 9)[0, 0, 0].tolist() == [5, 4, 3, 2, 1, 0, 0, 0]
    assert distance_to_known(mask, 3)[0, 0, 0].tolist() == [3, 3, 3, 2, 1, 0, 0, 0]
    assert (distance_to_known(torch.ones(1, 1, 8, 8), 4) == 4).all()


def test_whitened_holes_are_one_and_known_pixels_in_zero_to_one() -> None:
    image, mask = torch.tensor([-1.0, -0.5, 0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 0.0])
    found = whitened(image.expand(1, 3, 1, 4), mask.expand(1, 1, 1, 4))
    assert torch.equal(found, torch.tensor([0.0, 0.25, 1.0, 1.0]).expand(1, 3, 1, 4))
