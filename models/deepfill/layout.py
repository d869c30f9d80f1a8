"""The order, widths, strides and dilations of DeepFill's convolutions, both versions'.

Widths are the output channels of a convolution before its activation, in terms of the first one's,
``c``: 32 in version 1, 48 in version 2, whose gates use up half of each.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One convolution of a table."""

    name: str
    """As the authors number it."""
    width: int
    """Channels it yields."""
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    rise: bool = False
    """Whether the map is doubled by repetition before it."""
    activation: Literal["elu", "relu", "none"] = "elu"


Rows = tuple[Row, ...]


def encoder(c: int, wide: bool, num_dilated: int, num_extra: int) -> Rows:
    """Return conv1 to conv10, from full to quarter size.

    Args:
        c: the first width.
        wide: whether widths double with the stride (coarse network) or one layer later (the
            released refinement network).
        num_dilated: dilated convolutions, 4 in the paper.
        num_extra: plain convolutions inserted before them, 0 in the paper.
    """
    half, quarter = (2 * c, 4 * c) if wide else (c, 2 * c)
    return (
        Row("conv1", c, kernel=5),
        Row("conv2", half, stride=2),
        Row("conv3", 2 * c),
        Row("conv4", quarter, stride=2),
        Row("conv5", 4 * c),
        Row("conv6", 4 * c),
        *(Row(f"extra{i + 1}", 4 * c) for i in range(num_extra)),
        *(Row(f"conv{i + 7}", 4 * c, dilation=2 ** (i + 1)) for i in range(num_dilated)),
    )


def decoder(c: int) -> Rows:
    """Return the eleventh to the last convolution, from quarter to full size and to RGB.

    They are called merge11 to merge17, as with other depths conv11 may be a dilated one.
    """
    return (
        Row("merge11", 4 * c),
        Row("merge12", 4 * c),
        Row("merge13", 2 * c, rise=True),
        Row("merge14", 2 * c),
        Row("merge15", c, rise=True),
        Row("merge16", c // 2),
        Row("merge17", 3, activation="none"),
    )


def matching(c: int, wide: bool) -> Rows:
    """Return pm1 to pm6: the encoder of the attention branch, ReLU at its end."""
    return (
        Row("pm1", c, kernel=5),
        Row("pm2", 2 * c if wide else c, stride=2),
        Row("pm3", 2 * c),
        Row("pm4", 4 * c, stride=2),
        Row("pm5", 4 * c),
        Row("pm6", 4 * c, activation="relu"),
    )


def rebuilding(c: int) -> Rows:
    """Return pm9 and pm10, which follow the attention; the authors number no pm7 and pm8."""
    return Row("pm9", 4 * c), Row("pm10", 4 * c)


@dataclass(frozen=True)
class Layout:
    """The tables of both stages."""

    coarse: Rows
    """The first stage, from input to image."""
    imagine: Rows
    """The second stage's dilated branch."""
    match: Rows
    """The second stage's attention branch, up to the attention."""
    rebuild: Rows
    """The attention branch after the attention."""
    merge: Rows
    """The second stage's decoder, fed by both branches."""


def layout(c: int, wide: bool, num_dilated: int, num_extra: int) -> Layout:
    """Return the tables for a first width ``c``.

    Args:
        c: 32 in version 1, 48 in version 2.
        wide: whether the second stage's encoders are as wide as the first stage's.
        num_dilated: dilated convolutions in each dilated row, 4 in the paper.
        num_extra: plain convolutions before them, 0 in the paper.
    """
    return Layout(
        coarse=encoder(c, True, num_dilated, num_extra) + decoder(c),
        imagine=encoder(c, wide, num_dilated, num_extra),
        match=matching(c, wide),
        rebuild=rebuilding(c),
        merge=decoder(c),
    )
