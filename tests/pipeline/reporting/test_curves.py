import re

import numpy as np
import pytest

from infill.pipeline.reporting import Series, curve
from infill.pipeline.reporting.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ticks


def places(svg: str) -> list[tuple[float, float]]:
    found = re.findall(r'<polyline points="([^"]*)"/>\n<path class="marker" tr', svg)
    return [tuple(map(float, pair.split(","))) for pair in " ".join(found).split()]


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.05, 0.55, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        (16.0, 34.0, [15, 20, 25, 30, 35]),
        (0.0, 200_000.0, [0, 50_000, 100_000, 150_000, 200_000]),
        (-3.0, 4.0, [-4, -2, 0, 2, 4]),
    ],
)
def test_ticks_are_round_and_enclose_the_range(lowest, highest, expected):
    assert ticks(lowest, highest) == pytest.approx(expected)


@pytest.mark.parametrize(("lowest", "highest"), [(1e-9, 3e-9), (-5e7, 1e8), (7.0, 7.0), (0, 0)])
def test_ticks_enclose_any_range_with_two_to_seven(lowest, highest):
    found = ticks(lowest, highest)
    assert 2 <= len(found) <= 7
    assert found[0] <= lowest
    assert found[-1] >= highest
    assert found == sorted(set(found))


def test_points_lie_where_their_values_are():
    svg = curve([Series(name="spn", x=[0.0, 0.5, 1.0], y=[0.0, 1.0, 0.25])], "x", "y")
    across, upwards = WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - TOP
    expected = [
        (LEFT, HEIGHT - BOTTOM),
        (LEFT + across / 2, TOP),
        (WIDTH - RIGHT, HEIGHT - BOTTOM - upwards / 4),
    ]
    assert np.allclose(places(svg), expected, atol=0.01)


def test_interval_is_a_band_between_its_ends():
    line = Series(name="spn", x=[0, 1], y=[5, 6], low=[0, 0], high=[10, 10])
    svg = curve([line, Series(name="telea", x=[0, 1], y=[2, 3])], "x", "y")
    bands = re.findall(r'class="colour-(\d) band" points="([^"]*)"', svg)
    assert [colour for colour, _ in bands] == ["1"]
    corners = [tuple(map(float, pair.split(","))) for pair in bands[0][1].split()]
    assert corners == [
        (LEFT, HEIGHT - BOTTOM),
        (WIDTH - RIGHT, HEIGHT - BOTTOM),
        (WIDTH - RIGHT, TOP),
        (LEFT, TOP),
    ]


def test_each_series_has_its_own_colour_and_marker_in_the_legend():
    svg = curve([Series(name=name, x=[0], y=[1]) for name in ("a<b", "c", "d")], "x", "y")
    legend = svg[svg.index('class="legend"') :]
    assert "a&lt;b" in legend
    assert len(set(re.findall(r'd="([^"]*)"', legend))) == 3
    assert len(set(re.findall(r"colour-\d", legend))) == 3


def test_points_that_are_not_finite_are_left_out():
    nan = float("nan")
    svg = curve([Series(name="a", x=[0, 1, 2], y=[1, nan, 3])], "x", "y")
    assert "nan" not in svg
    assert len(places(svg)) == 2


def test_missing_values_are_reported():
    nothing = curve([Series(name="a", x=[], y=[])], "step", "loss", title="Losses")
    assert nothing == "<p>Losses: there are no values yet.</p>"


def test_long_training_curve_has_no_markers():
    line = Series(name="loss", x=range(1000), y=range(1000))
    assert "translate(" not in curve([line], "step", "loss")


def test_points_without_partner_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        curve([Series(name="a", x=[0, 1], y=[1])], "x", "y")
