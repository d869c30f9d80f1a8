"""The configuration of masks: recipe, range of hole ratios, sizes."""

from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from infill.pipeline.errors import UserError
from infill.pipeline.images import Channel, MaskRule, Polarity

Recipe = Literal[
    "centre",
    "box",
    "square",
    "blocks",
    "strokes",
    "long_strokes",
    "wide_strokes",
    "boxes",
    "free_form",
    "automaton",
    "irregular",
    "outpaint",
    "half",
    "grid",
    "text",
    "scratches",
    "files",
    "silhouettes",
    "mixed",
]
"""Every recipe; :mod:`infill.pipeline.masks.generators` describes each mask and names its paper."""

PublishedSet = Literal["", "liu-test", "liu-train"]
PUBLISHED_SETS: dict[str, int] = {"liu-test": 12_000, "liu-train": 55_116}
"""Number of masks of each published set, by name."""

HOLE_RATIO_BUCKETS: tuple[tuple[float, float], ...] = (
    (0.01, 0.1),
    (0.1, 0.2),
    (0.2, 0.3),
    (0.3, 0.4),
    (0.4, 0.5),
    (0.5, 0.6),
)
"""The published ranges (low, high] of hole ratio (Liu et al. 2018; MADF, Table I)."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How masks are generated. The defaults are the published numbers, without any constraint."""

    recipe: Recipe = "strokes"
    """The kind of hole. "mixed" chooses one of ``mixture`` for every sample."""
    mixture: tuple[tuple[Recipe, float], ...] = (("strokes", 2.0), ("box", 1.0))
    """For "mixed": recipes and their relative weights."""
    union: bool = False
    """For "mixed": whether every mask joins one hole of each recipe of ``mixture``, whatever their
    weights, in place of a choice (DeepFill v2: strokes and a square)."""
    in_turn: bool = False
    """Whether the masks of an image take the recipes of ``mixture`` in order, not at random. With
    as many masks per image as recipes, every image gets one of each (DeepGIN)."""
    min_hole_ratio: float = 0.0
    """Minimum share of the image that a hole covers, from 0 to 1 (exclusive bound)."""
    max_hole_ratio: float = 1.0
    """Maximum share of the image that a hole covers, from 0 to 1 (inclusive bound)."""
    hole_ratios: Literal["natural", "uniform"] = "natural"
    """Distribution of the hole ratio within that range: "natural" is whatever the recipe yields,
    "uniform" spreads it evenly."""
    curriculum_steps: int = 0
    """Number of steps over which the largest hole grows to ``max_hole_ratio``; 0 turns the
    curriculum off."""
    curriculum_start_ratio: float = 0.1
    """Largest hole ratio at step 0 of a curriculum."""
    min_box_side: float = 0.3
    """Minimum side of a "box", as a share of the image's side (DeepGIN)."""
    max_box_side: float = 0.7
    """Maximum side of a "box", as a share of the image's side (DeepGIN)."""
    max_shrink: float = 1 / 16
    """Maximum that a "square" loses on each side, as a share of the image's side (DeepFill's
    delta)."""
    grid_stride: int = 2
    """For "grid": one pixel in this many, in each direction, stays known (super-resolution)."""
    folder: str = ""
    """For "files" and "silhouettes": folder or s3:// prefix of mask images."""
    published_set: PublishedSet = ""
    """The published set that ``folder`` holds: "liu-test" are the 12,000 test masks of Liu et al.
    2018 in their six ranges of hole ratio, "liu-train" their 55,116 masks for training. A folder
    with another number of masks is refused. "" is any folder."""
    augmentation: Literal["full", "flip", "none"] = "full"
    """For "files": what a training does with a mask. "full" flips, crops, turns, dilates, and grows
    or shrinks it into the range of hole ratios (MADF); "flip" mirrors it (SPN); "none" takes it as
    it is. With the last two only masks within the range are taken. Evaluations by a protocol take
    masks as they are."""
    polarity: Polarity = "white"
    """Which pixels of mask images are the hole: "white" for those above ``threshold``, "black" for
    the others (MADF's files)."""
    threshold: int = 127
    """The highest level of a mask image, 0 to 254, that is not "white"; 0 suits labels 0, 1, 2."""
    channel: Channel = "auto"
    """What has a mask image's levels: "brightness" ignores transparency, "alpha" is opacity, "red",
    "green" or "blue" is one colour. "auto" is brightness, unless opacity varies. Then the hole is
    paint on transparency, or what was erased from a photograph or a layer of one colour; a mask
    that shows neither is refused."""

    def __post_init__(self) -> None:
        """Refuse settings that no mask can satisfy."""
        _require(
            0 <= self.min_hole_ratio < self.max_hole_ratio <= 1,
            "min_hole_ratio and max_hole_ratio must satisfy 0 <= min < max <= 1, "
            f"found {self.min_hole_ratio} and {self.max_hole_ratio}",
        )
        _require(
            0 < self.min_box_side <= self.max_box_side <= 1,
            "min_box_side and max_box_side must satisfy 0 < min <= max <= 1, "
            f"found {self.min_box_side} and {self.max_box_side}",
        )
        _require(0 <= self.max_shrink < 0.25, f"max_shrink must be in [0, 0.25): {self.max_shrink}")
        _require(self.grid_stride >= 2, f"grid_stride must be at least 2: {self.grid_stride}")
        _require(self.curriculum_steps >= 0, "curriculum_steps must not be negative")
        if self.curriculum_steps:
            _require(
                self.min_hole_ratio < self.curriculum_start_ratio <= self.max_hole_ratio,
                "curriculum_start_ratio must lie above min_hole_ratio and at most at "
                f"max_hole_ratio, found {self.curriculum_start_ratio}",
            )
        _ = self.rule  # Its own checks refuse an impossible threshold.
        self._check_recipes()

    def _check_recipes(self) -> None:
        _require(
            not self.union or (self.recipe == "mixed" and not self.in_turn),
            "union joins the recipes of a mixture: set `recipe` to mixed, and in_turn to false",
        )
        _require(self.recipe in get_args(Recipe), f"unknown recipe {self.recipe!r}")
        if self.recipe == "mixed":
            _require(
                bool(self.mixture) and all(weight > 0 for _, weight in self.mixture),
                f"mixture needs at least one recipe, each with a weight above 0: {self.mixture}",
            )
            _require(
                all(name in get_args(Recipe) and name != "mixed" for name, _ in self.mixture),
                f"mixture may hold any recipe but 'mixed': {self.mixture}",
            )
        ratios = {"centre": 0.25, "half": 0.5, "grid": 1 - 1 / self.grid_stride**2}
        for name in self.recipes:
            ratio = ratios.get(name, self.max_hole_ratio)
            _require(
                self.min_hole_ratio < ratio <= self.max_hole_ratio,
                f"the {name!r} mask always covers {ratio:g} of the frame, outside "
                f"({self.min_hole_ratio}, {self.max_hole_ratio}]; change the range or the recipe",
            )
            _require(
                bool(self.folder) or not self.published_set,
                f"the set {self.published_set!r} is not downloaded by Infill: set `folder` to the "
                "folder that holds its masks",
            )
            _require(
                name not in ("files", "silhouettes") or bool(self.folder),
                f"the {name!r} masks need a folder of mask images: set `folder`",
            )

    @property
    def rule(self) -> MaskRule:
        """Which pixels of a mask image are the hole."""
        return MaskRule(polarity=self.polarity, threshold=self.threshold, channel=self.channel)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes that may be used."""
        return tuple(r for r, _ in self.mixture) if self.recipe == "mixed" else (self.recipe,)

    def changes(self) -> dict[str, object]:
        """Return the fields that differ from their defaults, which identify the recipe.

        A later field at its default therefore leaves earlier masks unchanged, and ``polarity``
        keeps the name that it had in earlier releases.
        """
        values = asdict(self)
        changed = {f.name: values[f.name] for f in fields(self) if values[f.name] != f.default}
        if changed.pop("polarity", None):
            changed["white_is_hole"] = False
        changed.pop("published_set", None)
        if "files" not in self.recipes:
            changed.pop("augmentation", None)
        return changed

    def largest_ratio(self, step: int) -> float:
        """Return the largest hole ratio allowed at a global step (linear curriculum)."""
        if step >= self.curriculum_steps:
            return self.max_hole_ratio
        grown = (self.max_hole_ratio - self.curriculum_start_ratio) * step / self.curriculum_steps
        return self.curriculum_start_ratio + grown


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(f"masks: {sentence}")
