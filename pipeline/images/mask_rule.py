"""The rule for mask images; configurations import it, so it needs no decoder."""

from dataclasses import dataclass
from typing import Literal, get_args

from infill.pipeline.errors import UserError

HOLE_THRESHOLD = 127
"""Mask pixels brighter than this are hole; compressed masks are not exactly black and white."""

Polarity = Literal["white", "black"]
"""Whether bright or dark pixels of a mask are the hole."""
Channel = Literal["auto", "brightness", "alpha", "red", "green", "blue"]
"""What of a mask is compared with the threshold."""
MaskForm = Literal["brightness", "opaque", "transparent", "red", "green", "blue"]
"""What marks the hole: brightness, opaque or transparent pixels, or one colour."""


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """Which pixels of a mask image are the hole."""

    polarity: Polarity = "white"
    """The side of the threshold that is the hole: "white" for the levels above it, "black" for the
    others."""
    threshold: int = HOLE_THRESHOLD
    """The highest level, 0 to 254, that is not "white". 0 suits labels: every label but 0."""
    channel: Channel = "auto"
    """What has the levels: "brightness" ignores transparency, "alpha" is opacity, and "red",
    "green" or "blue" is one colour. "auto" is brightness, unless opacity varies. Then the hole is
    paint on transparency, or what was erased from a photograph or a layer of one colour; a mask
    that shows neither is refused."""

    def __post_init__(self) -> None:
        for name, values in (("polarity", get_args(Polarity)), ("channel", get_args(Channel))):
            if getattr(self, name) not in values:
                listed = ", ".join(values)
                raise UserError(f"masks: {name} is one of {listed}, not {getattr(self, name)!r}")
        if not 0 <= self.threshold <= 254:
            raise UserError(f"masks: threshold must be from 0 to 254, not {self.threshold}")
