"""Generate masks, and generate one again from its id."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from infill.pipeline.errors import UserError
from infill.pipeline.images import ByteHole
from infill.pipeline.masks.config import HOLE_RATIO_BUCKETS, MaskConfig, Recipe
from infill.pipeline.masks.exact import squared_distances
from infill.pipeline.masks.generators import GENERATORS, JOINED, generate_box_of
from infill.pipeline.masks.mask_files import (
    FILES_TRIED,
    generate_fitting_file,
    generate_whole_file,
    list_images,
)
from infill.pipeline.masks.rng import random_for

TRIES = 8  # attempts of a recipe before the last hole is grown or shrunk to fit
MOST_JOINED = 24
MORE_TRIES = 100  # attempts before a recipe without any hole is refused
SMALL_SIDE_PX = 32  # below it, text and automata may have no room for a hole
UNIFORM_WIDTH = 0.05  # half-width of the range around a uniformly sampled hole ratio


@dataclass(frozen=True, kw_only=True)
class Mask:
    """One sample's hole."""

    hole: ByteHole
    """[H, W] uint8: 1 in the hole, 0 where known."""
    id: str
    """``recipe:settings:HxW:seed:epoch:step:key``; see :func:`mask_from_id`."""

    @property
    def hole_ratio(self) -> float:
        """Share of the frame that is missing, 0 to 1."""
        return cv2.countNonZero(self.hole) / self.hole.size


def generate_mask(
    config: MaskConfig, key: str, epoch: int, seed: int, height: int, width: int, step: int = 0
) -> Mask:
    """Generate the mask of one sample in one epoch.

    Args:
        config: the recipe and the range (min, max] of the hole ratio, which every mask satisfies.
        key: the sample's key.
        epoch: number of earlier masks of the sample.
        seed: the run's seed.
        height: height of the mask in pixels.
        width: width of the mask in pixels.
        step: the global step; read by a curriculum only.

    Raises:
        UserError: if the frame has too few pixels for the range, the mask folder is empty, or the
            recipe's function returns no hole.
    """
    step = min(step, config.curriculum_steps)  # after its end, a curriculum has no effect
    settings = settings_digest(config)
    random = random_for("mask", settings, key, epoch, seed)
    recipe = _choose_recipe(config, random, epoch)
    low, high = _pixel_range(config, random, step, height, width)
    if recipe == "files" and config.augmentation != "full" and not config.union:
        hole = _file_in_range(config, random, (height, width), low, high)
    else:
        hole = _generate_in_range(config, recipe, random, (height, width), low, high)
    name = f"{recipe}:{settings}:{height}x{width}:{seed}:{epoch}:{step}:{key}"
    return Mask(hole=hole, id=name)


def mask_from_id(config: MaskConfig, mask_id: str) -> Mask:
    """Generate a mask again from its id.

    Args:
        config: the configuration it was generated with; checkpoints carry it.
        mask_id: as in :attr:`Mask.id`.

    Raises:
        UserError: if the id is malformed, or was made with other settings.
    """
    try:
        _, settings, size, seed, epoch, step, key = mask_id.split(":", 6)
        height, width = (int(side) for side in size.split("x"))
        numbers = int(epoch), int(seed), height, width, int(step)
    except ValueError as error:
        raise UserError(
            f"{mask_id!r} is not a mask id; an id reads recipe:settings:HxW:seed:epoch:step:key"
        ) from error
    if settings != settings_digest(config):
        raise UserError(
            f"mask {mask_id!r} was generated with settings {settings}, these masks' settings are "
            f"{settings_digest(config)}; use the configuration it was generated with"
        )
    return generate_mask(config, key, *numbers)


def bucket_of(hole_ratio: float) -> tuple[float, float] | None:
    """Return the published range (low, high] of a hole ratio, or None outside of all."""
    return next((b for b in HOLE_RATIO_BUCKETS if b[0] < hole_ratio <= b[1]), None)


@lru_cache(maxsize=64)
def settings_digest(config: MaskConfig) -> str:
    """Return eight hexadecimal digits that identify a configuration.

    A mask folder is identified by the names and sizes of its images, not by its path.
    """
    settings = config.changes()
    if "folder" in settings:
        settings["folder"] = list_images(config.folder)
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _choose_recipe(config: MaskConfig, random: np.random.Generator, epoch: int) -> Recipe:
    if config.recipe != "mixed":
        return config.recipe
    if config.union:
        return config.mixture[0][0]
    if config.in_turn:
        return config.mixture[epoch % len(config.mixture)][0]
    point = random.random() * sum(weight for _, weight in config.mixture)
    for recipe, weight in config.mixture:
        point -= weight
        if point < 0:
            return recipe
    return config.mixture[-1][0]


def _pixel_range(
    config: MaskConfig, random: np.random.Generator, step: int, height: int, width: int
) -> tuple[int, int]:
    """Return the minimum and maximum number of pixels of a hole."""
    low, high = config.min_hole_ratio, config.largest_ratio(step)
    if config.hole_ratios == "uniform":
        aim = low + (high - low) * random.random()
        low, high = max(low, aim - UNIFORM_WIDTH), min(high, aim + UNIFORM_WIDTH)
    least, most = int(low * height * width) + 1, int(high * height * width)
    if least > most:
        raise UserError(
            f"masks: no hole in a frame of {width}x{height} px covers more than {low:g} and at "
            f"most {high:g} of it; widen min_hole_ratio and max_hole_ratio"
        )
    return least, most


def _generate_in_range(
    config: MaskConfig,
    recipe: Recipe,
    random: np.random.Generator,
    size: tuple[int, int],
    least: int,
    most: int,
) -> ByteHole:
    """Generate until the hole fits; join small holes; finally grow or shrink the last one."""
    for _ in range(TRIES):
        hole = _generate(config, recipe, random, size)
        for other in config.recipes if config.union else ():
            if other != recipe:
                hole |= _generate(config, other, random, size)
        pixels = cv2.countNonZero(hole)
        for _ in range(MOST_JOINED if recipe in JOINED else 0):
            if pixels >= least:
                break
            hole |= _generate(config, recipe, random, size)
            pixels = cv2.countNonZero(hole)
        if least <= pixels <= most:
            return hole
    target = least + int(random.random() * (most - least + 1))
    if recipe in ("box", "square"):
        hole = generate_box_of(config, random, *size, target)
        if least <= cv2.countNonZero(hole) <= most:
            return hole
    if recipe in ("files", "silhouettes") and cv2.countNonZero(hole) in (0, hole.size):
        hole = generate_whole_file(config, random, *size)
        if least <= cv2.countNonZero(hole) <= most:
            return hole
    if not hole.any():
        _require_a_hole(config, recipe, size)
    return resize_hole(hole, target)


def _generate(
    config: MaskConfig, recipe: Recipe, random: np.random.Generator, size: tuple[int, int]
) -> ByteHole:
    """Call a recipe's function, and refuse what is not a hole: all that follows relies on it."""
    if recipe not in GENERATORS:
        raise UserError(f"masks: the recipe {recipe!r} has no line in GENERATORS")
    hole = GENERATORS[recipe](config, random, *size)
    form = getattr(hole, "dtype", None), getattr(hole, "shape", None)
    if form != (np.uint8, size) or hole.max() > 1:
        found = f"{form[0]} {form[1]} up to {hole.max()}" if form[1] else repr(hole)
        raise UserError(
            f"masks: the recipe {recipe!r} must return an array of uint8, 1 in the hole and 0 "
            f"elsewhere, of shape {size}; found {found}"
        )
    return hole


def _require_a_hole(config: MaskConfig, recipe: Recipe, size: tuple[int, int]) -> None:
    """Refuse a recipe that never makes a hole in a frame with room for one."""
    random = random_for("without a hole", recipe)
    if min(size) < SMALL_SIDE_PX:
        return
    if not any(_generate(config, recipe, random, size).any() for _ in range(MORE_TRIES)):
        raise UserError(f"masks: the recipe {recipe!r} made {MORE_TRIES} masks without a hole")


def _file_in_range(
    config: MaskConfig,
    random: np.random.Generator,
    size: tuple[int, int],
    least: int,
    most: int,
) -> ByteHole:
    """Return a mask file as it is, of the sampled range or else of the whole one."""
    pixels = size[0] * size[1]
    whole = int(config.min_hole_ratio * pixels) + 1, int(config.max_hole_ratio * pixels)
    for low, high in ((least, most), whole):
        hole = generate_fitting_file(config, random, size, low, high)
        if hole is not None:
            return hole
    raise UserError(
        f"masks: no mask file among {FILES_TRIED} of {config.folder} covers more than "
        f"{config.min_hole_ratio:g} and at most {config.max_hole_ratio:g} of the frame; widen "
        "min_hole_ratio and max_hole_ratio, or set augmentation to full"
    )


def resize_hole(hole: ByteHole, pixels: int) -> ByteHole:
    """Grow or shrink a hole evenly along its edge to exactly so many pixels.

    Args:
        hole: [H, W] uint8, 1 in the hole.
        pixels: the number of pixels, at least 1 and at most H * W.
    """
    found = cv2.countNonZero(hole)
    if found == pixels:
        return hole
    if found == 0:
        hole = hole.copy()
        hole[hole.shape[0] // 2, hole.shape[1] // 2] = 1
    # Depth inside the hole, negative outside: the deepest pixels are the hole of any size. Depths
    # are whole numbers, so that equal ones are equal on every machine.
    padded = cv2.copyMakeBorder(hole, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth = squared_distances(padded) - squared_distances(1 - padded)
    depth = depth[1:-1, 1:-1].ravel()
    least_deep = np.partition(depth, depth.size - pixels)[depth.size - pixels]
    resized = (depth > least_deep).astype(np.uint8)
    ties = np.flatnonzero(depth == least_deep)[: pixels - int(resized.sum())]
    resized[ties] = 1  # in raster order, the same on every machine
    reshaped: ByteHole = resized.reshape(hole.shape)
    return reshaped
