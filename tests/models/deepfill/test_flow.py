"""The colours of attention against their definition, one place at a time."""

import math

import pytest
import torch

from infill.models.deepfill.flow import attention_flow, colour_wheel


def test_the_wheel_runs_through_the_six_colours_in_55_hues() -> None:
    wheel = (colour_wheel() * 255).round().int()
    assert wheel.shape == (55, 3)
    corners = {0: [255, 0, 0], 15: [255, 255, 0], 21: [0, 255, 0], 25: [0, 255, 255]}
    corners |= {36: [0, 0, 255], 49: [255, 0, 255]}
    for hue, colour in corners.items():
        assert wheel[hue].tolist() == colour
    assert wheel[1].tolist() == [255, 17, 0]  # floor(255 * 1 / 15)
    assert wheel[16].tolist() == [255 - 42, 255, 0]  # 255 - floor(255 * 1 / 6)


def colour_by_definition(down: float, right: float) -> list[float]:
    wheel = colour_wheel().tolist()
    radius = math.hypot(down, right)
    turn = (math.atan2(-right, -down) / math.pi + 1) / 2 * 54 + 1
    first = math.floor(turn)
    second = 1 if first + 1 == 56 else first + 1
    levels = []
    for channel in range(3):
        low, high = wheel[first - 1][channel], wheel[second - 1][channel]
        colour = (1 - (turn - first)) * low + (turn - first) * high
        colour = 1 - radius * (1 - colour) if radius <= 1 else 0.75 * colour
        levels.append(math.floor(255 * colour) / 127.5 - 1)
    return levels


def test_every_position_has_the_colour_of_its_offset() -> None:
    torch.manual_seed(0)
    attended = torch.randint(0, 35, (3, 5, 7))
    attended[0] = torch.randint(0, 7, (5, 7))  # the first sample looks less far
    picture = attention_flow(attended, cell_px=1).double()
    greatest = 0.0
    for sample in range(3):
        offsets = {
            (i, j): (attended[sample, i, j].item() // 7 - i, attended[sample, i, j].item() % 7 - j)
            for i in range(5)
            for j in range(7)
        }
        greatest = max(greatest, *(math.hypot(*offset) for offset in offsets.values()))
        scale = greatest + 2.0**-52
        for (i, j), (down, right) in offsets.items():
            expected = colour_by_definition(down / scale, right / scale)
            assert picture[sample, :, i, j].tolist() == pytest.approx(expected, abs=1e-6)


def test_looking_at_oneself_is_white_and_cells_are_squares() -> None:
    attended = torch.arange(12).view(1, 3, 4)
    picture = attention_flow(attended)
    assert picture.shape == (1, 3, 24, 32)
    assert (picture == 1).all()
    attended[0, 1, 1] = 0
    coloured = (attention_flow(attended) != 1).any(1)[0].nonzero()
    assert coloured.min(0).values.tolist() == [8, 8]
    assert coloured.max(0).values.tolist() == [15, 15]
