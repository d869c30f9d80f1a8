"""Masks from image files: a published set of irregular masks, or silhouettes of objects."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np

from infill.pipeline import storage
from infill.pipeline.errors import ImageError, UserError, printable
from infill.pipeline.images import ByteHole, MaskRule, read_mask
from infill.pipeline.images.kinds import SUFFIXES, is_read
from infill.pipeline.masks.config import PUBLISHED_SETS, MaskConfig
from infill.pipeline.masks.exact import resize_mask, sample
from infill.pipeline.sources.stores import open_store

_UNREADABLE = ("damaged_image", "too_many_pixels", "unsupported_image")
MAX_TURN_DEGREES = 10  # MADF's rotation of the irregular set
MAX_DILATION_PX = 9  # at 256 px
FILES_TRIED = 200
"""Number of files among which one of a range of hole ratios is looked for."""
CHECKED_FILES = 1000
"""Maximum number of mask files that are read before a job starts."""


@lru_cache(maxsize=8)
def list_images(folder: str) -> tuple[tuple[str, int], ...]:
    """Return name and size in bytes of every mask image directly in a folder, by name.

    Hidden files are passed over. Links that lead nowhere are among the others, to be refused.

    Raises:
        UserError: if there are none.
    """
    found = open_store(folder).files() if storage.exists(folder) else ()
    images = [
        (os.fsdecode(file.file), file.size)
        for file in found
        if b"/" not in file.file and is_read(file.path)
    ]
    if not images:
        raise UserError(
            f"masks: {storage.absolute(folder)} holds no mask images ({', '.join(SUFFIXES)}); "
            "set `folder` to the folder that holds them"
        )
    return tuple(images)


@lru_cache(maxsize=1024)
def read_mask_file(location: str, rule: MaskRule) -> ByteHole:
    """Return a mask file's hole, [H, W] uint8, by the rule of :func:`read_mask`.

    Raises:
        UserError: if it cannot be read, is not an image, or marks no or all pixels.
    """
    try:
        hole = read_mask(storage.read(location), rule, fields="masks.")
    except OSError as error:
        if why := storage.why_unreadable(error):
            raise UserError(
                f"masks: {printable(location)} cannot be read: {why}; mend or remove it"
            ) from error
        raise
    except ImageError as error:
        kind = "is not an image" if error.code in _UNREADABLE else "cannot be used"
        raise UserError(
            f"masks: {printable(location)} {kind}; remove it or replace it ({error})"
        ) from error
    return hole.astype(np.uint8)


def check_mask_files(config: MaskConfig) -> None:
    """Read the mask files of a recipe, so that one without a hole is named before a job starts.

    Of a large folder :data:`CHECKED_FILES` are read, evenly spaced; the others are checked when a
    sample needs them.

    Raises:
        UserError: naming the first file that is not an image, or marks no or all pixels.
    """
    if not {"files", "silhouettes"} & set(config.recipes):
        return
    _check_number(config)
    _check_folder(config.folder, config.rule)


def _check_number(config: MaskConfig) -> None:
    found, expected = len(list_images(config.folder)), PUBLISHED_SETS.get(config.published_set)
    if expected is not None and found != expected:
        raise UserError(
            f"masks: {storage.absolute(config.folder)} holds {found:,} masks, the published set "
            f"{config.published_set!r} {expected:,}; complete the folder, or leave out "
            "`published_set`"
        )


@lru_cache(maxsize=8)
def _check_folder(folder: str, rule: MaskRule) -> None:
    names = [name for name, _ in list_images(folder)]
    count = min(len(names), CHECKED_FILES)
    chosen = [names[at * len(names) // count] for at in range(count)]

    def check(name: str) -> None:
        read_mask_file.__wrapped__(storage.join(folder, name), rule)  # without keeping it

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(check, chosen):
            pass


def _choose(config: MaskConfig, random: np.random.Generator) -> ByteHole:
    images = list_images(config.folder)
    name, _ = images[int(random.random() * len(images))]
    return read_mask_file(storage.join(config.folder, name), config.rule)


def generate_whole_file(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide a whole mask of the folder at the frame's size, where its crops have no usable hole.

    A pixel is hole if the file marks any of what it covers, unless that hides the whole frame: then
    if the file marks all of it.
    """
    share = cv2.resize(
        _choose(config, random).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
    )
    share = np.rint(share * 2**20)  # sums of floats depend on their order
    hole: ByteHole = (share > 0).astype(np.uint8)
    return hole if not hole.all() else (share >= share.max()).astype(np.uint8)


def generate_file(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide a mask of the folder, flipped, cropped, turned and dilated (Liu et al.; MADF).

    Two flips, a crop of 80 to 100 % of each side, a rotation by up to 10 degrees, and a dilation of
    every second mask. The rotation repeats border pixels outside the mask. Other augmentations
    mirror at most.
    """
    hole = _choose(config, random)
    if config.augmentation != "full":
        mirrored = config.augmentation == "flip" and random.random() < 0.5
        return resize_mask(hole[:, ::-1] if mirrored else hole, height, width)
    rows, columns = hole.shape
    flip_rows, flip_columns, crop, top, left, turn, dilate, size = random.random(8)
    crop = 0.8 + 0.2 * crop
    degrees = math.radians((2 * turn - 1) * MAX_TURN_DEGREES)
    cosine, sine = math.cos(degrees), math.sin(degrees)
    step = np.array([columns * crop / width, rows * crop / height])
    linear = np.array([[cosine, -sine], [sine, cosine]]) * step
    linear *= (-1 if flip_columns < 0.5 else 1, -1 if flip_rows < 0.5 else 1)
    middle = (0.5 + (1 - crop) * (np.array([left, top]) - 0.5)) * (columns, rows) - 0.5
    frame_middle = np.array([width - 1, height - 1]) / 2
    matrix = np.column_stack([linear, middle - linear @ frame_middle])
    moved = sample(hole, matrix, height, width)
    if dilate < 0.5:
        side = 1 + round(size * MAX_DILATION_PX * min(height, width) / 256)
        moved = cv2.dilate(moved, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return moved


def generate_fitting_file(
    config: MaskConfig, random: np.random.Generator, size: tuple[int, int], least: int, most: int
) -> ByteHole | None:
    """Hide a mask of the folder that has a number of pixels, without growing any into it.

    Args:
        config: whose augmentation is not "full".
        random: chooses files.
        size: height and width of the frame.
        least: smallest number of pixels of the hole.
        most: largest number.

    Returns:
        The first of :data:`FILES_TRIED` chosen ones that fits, or None.
    """
    for _ in range(FILES_TRIED):
        hole = generate_file(config, random, *size)
        if least <= cv2.countNonZero(hole) <= most:
            return hole
    return None


def generate_silhouette(
    config: MaskConfig, random: np.random.Generator, height: int, width: int
) -> ByteHole:
    """Hide the shape of an object of the folder, at 30 to 80 % of the image's side, anywhere."""
    hole = _choose(config, random)
    left, top, tight_width, tight_height = cv2.boundingRect(hole)
    canvas = np.zeros((height, width), np.uint8)
    if not tight_width:
        return canvas
    shape = hole[top : top + tight_height, left : left + tight_width]
    flip, size, x, y = random.random(4)
    shape = shape[:, ::-1] if flip < 0.5 else shape
    scale = (0.3 + 0.5 * size) * min(width / tight_width, height / tight_height)
    wide, tall = max(1, round(tight_width * scale)), max(1, round(tight_height * scale))
    shape = cv2.resize(np.ascontiguousarray(shape), (wide, tall), interpolation=cv2.INTER_NEAREST)
    row, column = int(y * (height - tall + 1)), int(x * (width - wide + 1))
    canvas[row : row + tall, column : column + wide] = shape
    return canvas
