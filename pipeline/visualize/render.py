"""Render the intermediate results of a checkpoint as PNG files and a sheet of them."""

import os

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from infill.models.architecture import load
from infill.pipeline import checkpoints, storage
from infill.pipeline.errors import UserError
from infill.pipeline.image_grid import make_grid, masked_view
from infill.pipeline.images import (
    ByteHole,
    Pixels,
    RejectedError,
    decode_original,
    encode_png,
    read_header,
)
from infill.pipeline.inference.predictor import Predictor
from infill.pipeline.masks import generate_mask
from infill.pipeline.masks.mask_files import read_mask_file
from infill.pipeline.sharding.preprocess import resize_short_side
from infill.pipeline.visualize.config import VisualizeConfig

IMAGES_PER_LINE = 4
SHEET_CELL_PX = 256
"""Maximum side of an image on the sheet, in pixels."""


def visualize(config: VisualizeConfig) -> dict[str, str]:
    """Write a checkpoint's intermediate results as images, and a sheet of them all.

    Returns:
        The location of each PNG by the image's name; "sheet" has all of them.

    Raises:
        UserError: if the image, mask or checkpoint is missing or invalid.
    """
    loaded = checkpoints.load_generator(config.checkpoint, config.device)
    pixels, hole = _photograph(config, config.short_side_px or loaded.image_size_px)
    shown = Predictor.of(loaded, config.device).intermediate_results(
        load(loaded.architecture).intermediate_results, pixels, hole
    )
    images = {"masked image": masked_view(pixels, hole), **shown}
    return _write(config.out, images, (config.image, config.mask))


def _photograph(config: VisualizeConfig, short_side_px: int) -> tuple[Pixels, ByteHole]:
    """Return the image, uint8 [H, W, 3], and its hole, uint8 [H, W]."""
    try:
        data = storage.read(config.image)
    except FileNotFoundError as error:
        raise UserError(f"--image: there is no file {config.image}") from error
    try:
        whole = decode_original(data, read_header(data))
    except RejectedError as error:
        raise UserError(f"--image {config.image}: {error}") from error
    pixels = resize_short_side(whole, short_side_px)
    height, width = pixels.shape[:2]
    if not config.mask:
        name = config.image.rsplit("/", 1)[-1]
        return pixels, generate_mask(config.masks, name, 0, 0, height, width).hole
    if not storage.exists(config.mask):
        raise UserError(f"--mask: there is no file {config.mask}")
    hole = read_mask_file(config.mask, config.masks.rule)
    if hole.shape != whole.shape[:2]:
        raise UserError(
            f"--mask {config.mask} is {hole.shape[1]} x {hole.shape[0]} px, the photograph "
            f"{whole.shape[1]} x {whole.shape[0]}; they must be of one size"
        )
    resized = cv2.resize(hole, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    if cv2.countNonZero(resized) in (0, resized.size):
        raise UserError(
            f"--mask {config.mask}: its hole vanishes or covers everything at {width} x {height} "
            "px; give a larger --short-side-px"
        )
    return pixels, resized


def _write(folder: str, images: dict[str, Pixels], inputs: tuple[str, ...]) -> dict[str, str]:
    locations = {}
    for index, name in enumerate(images):
        slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        slug = "-".join(part for part in slug.split("-") if part)
        locations[name] = storage.join(storage.absolute(folder), f"{index:02d}-{slug}.png")
    locations["sheet"] = storage.join(storage.absolute(folder), "sheet.png")
    for one in filter(None, inputs):
        if os.path.realpath(storage.absolute(one)) in map(os.path.realpath, locations.values()):
            raise UserError(f"the results would overwrite {one}; give another --out")
    for name, image in images.items():
        storage.write(locations[name], encode_png(image))
    storage.write(locations["sheet"], _sheet(images))
    return locations


def _sheet(images: dict[str, Pixels]) -> bytes:
    """Return a sheet of all images, resized to one size, each under its name."""
    height, width = next(iter(images.values())).shape[:2]
    factor = SHEET_CELL_PX / max(height, width)
    cell = round(height * factor), round(width * factor)
    lines, names = [], list(images)
    for start in range(0, len(names), IMAGES_PER_LINE):
        titles = names[start : start + IMAGES_PER_LINE]
        row = [_fitted(images[name], *cell) for name in titles]
        missing = IMAGES_PER_LINE - len(row)
        row += [np.full_like(row[0], 255)] * missing
        lines.append(make_grid([row], titles + [""] * missing))
    return encode_png(np.concatenate(lines))


def _fitted(image: Pixels, height: int, width: int) -> Pixels:
    """Resize an image to a cell without distortion, with sharp pixels if enlarged."""
    scale = min(height / image.shape[0], width / image.shape[1])
    size = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized: Tensor
    if scale >= 1:
        resized = functional.interpolate(tensor, size, mode="nearest-exact")
    else:
        resized = functional.interpolate(tensor, size, mode="bilinear", antialias=True)
    cell = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    inner = resized[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    cell[top : top + size[0], left : left + size[1]] = inner
    return cell
