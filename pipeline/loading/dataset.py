"""Samples: an image decoded, cropped and augmented, and its mask.

Every random decision is keyed by (purpose, sample key, epoch, seed), so that every process and
every node makes the same sample.
"""

import logging
import math
import os
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.images import (
    ByteHole,
    Pixels,
    RejectedError,
    decode_original,
    decode_sample,
    is_jpeg,
    read_header,
)
from infill.pipeline.images.tensors import Values, write_values
from infill.pipeline.loading.config import BatchConfig, Crop
from infill.pipeline.loading.shard_reader import DamagedSampleError, ShardCache, ShardReader
from infill.pipeline.manifest import Manifest
from infill.pipeline.masks import Mask, generate_mask, number_for
from infill.pipeline.tar_reader import is_compressed

MOST_DAMAGED_IN_A_ROW = 1000
"""Number of damaged samples after each other from which a set is refused."""
logger = logging.getLogger(__name__)

SHIFTS = (0, 32, 64, 96)

Decoded = tuple[Pixels, Pixels | None]
"""An image and, if it is wanted, its label map of the same size."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image as the network receives it, and its mask."""

    key: str
    pixels: Pixels
    """RGB, [S, S, 3] uint8."""
    hole: ByteHole
    """[S, S] uint8: 1 in the hole."""
    mask_id: str
    labels: Pixels | None = None
    """Its label map, RGB [S, S, 3] uint8, if the configuration wants it."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One image as it is seen in an epoch."""

    key: str
    pixels: Pixels
    """RGB, [S, S, 3] uint8; not always contiguous."""
    labels: Pixels | None
    """The same part of its label map, if the configuration wants it."""


class SampleTransform:
    """The transform of an image before the network sees it: crop, augmentation and mask.

    Args:
        config: how each is made.
        augment: whether images are augmented; validation does not.
    """

    def __init__(self, config: BatchConfig, *, augment: bool = True) -> None:
        self.config, self.augment = config, augment

    def mask(self, key: str, epoch: int, step: int, turn: int) -> Mask:
        """Return a sample's mask; the arguments are those of :meth:`InpaintingDataset.make`."""
        config, size = self.config, self.config.image_size_px
        masked = epoch * config.masks_per_image + turn
        return generate_mask(config.masks, key, masked, config.seed, size, size, step)

    def view(self, image: Pixels, key: str, epoch: int, *, labels: bool = False) -> Pixels:
        """Return the crop of a decoded image for an epoch; both RGB.

        Args:
            image: [H, W, 3].
            key: of the sample.
            epoch: number of completed passes over the set.
            labels: whether it is a label map, which is cut as its image is and keeps its colours.
        """
        config, size = self.config, self.config.image_size_px
        down, across, *_ = uniform_numbers(number_for("view", key, epoch, config.seed))
        image = rescale(image, config, labels)
        if config.random_resize:
            uniform = uniform_numbers(number_for("scale", key, epoch, config.seed))[0]
            image = resize_at_random(image, config, uniform, labels)
        pixels = crop_image(image, size, config.crop, down, across, labels)
        if self.augment:
            pixels = self.augmented(pixels, key, epoch, labels=labels)
        # Another shape or type would leave what the batch's memory held before.
        if pixels.shape != (size, size, 3) or pixels.dtype != np.uint8:
            raise ValueError(
                f"the transform of {key} must return uint8 [{size}, {size}, 3], not "
                f"{pixels.dtype} {list(pixels.shape)}"
            )
        return pixels

    def augmented(self, pixels: Pixels, key: str, epoch: int, *, labels: bool) -> Pixels:
        """Return a crop as training sees it in an epoch; the arguments are those of :meth:`view`.

        Each decision has its number whether it is used or not, so that none depends on another.
        """
        config = self.config
        _, _, flip, turn = uniform_numbers(number_for("view", key, epoch, config.seed))
        if config.quarter_turns:
            pixels = np.ascontiguousarray(np.rot90(pixels, int(4 * turn)))
        if config.horizontal_flip and flip < 0.5:
            pixels = cv2.flip(pixels, 1)  # NumPy takes 40 times as long
        if config.colour_jitter and not labels:
            pixels = jitter(
                np.ascontiguousarray(pixels), config.colour_jitter, key, epoch, config.seed
            )
        return pixels


class InpaintingDataset(SampleTransform):
    """Makes any sample of a shard set; safe to share between threads.

    Raises:
        UserError: if an image of the set is smaller than the crop, or the set lacks label maps that
            the configuration wants; nothing has been read yet.
    """

    def __init__(self, config: BatchConfig, manifest: Manifest, *, augment: bool = True) -> None:
        if config.keeps_scale:
            require_large_enough(manifest, config.image_size_px)
        super().__init__(config, augment=augment)
        self._last = threading.local()
        self._named: set[int] = set()
        self.reader = ShardReader(manifest, cache_for(manifest, config), config.verify_checksums)
        if config.label_maps:
            self.reader.require_labels()

    def make(self, row: int, epoch: int, step: int = 0, turn: int = 0) -> Sample:
        """Return the sample of a manifest row as it is seen in an epoch.

        Args:
            row: of the manifest.
            epoch: number of completed passes over the set.
            step: the global step; read by a mask curriculum only.
            turn: which of the sample's masks of this epoch.

        Raises:
            UserError: if the sample is damaged.
        """
        view = self._seen(row, epoch)
        mask = self.mask(view.key, epoch, step, turn)
        return Sample(
            key=view.key,
            pixels=np.ascontiguousarray(view.pixels),
            hole=mask.hole,
            mask_id=mask.id,
            labels=None if view.labels is None else np.ascontiguousarray(view.labels),
        )

    def write_image(
        self, row: int, epoch: int, values: Values, labels: Values | None = None
    ) -> str:
        """Write a sample's image as :meth:`make` makes it; return the sample's key.

        Args:
            row: of the manifest.
            epoch: as in :meth:`make`.
            values: [3, S, S] float32, filled with values in [-1, 1].
            labels: likewise for the label map, if the configuration wants it.

        Raises:
            UserError: if the sample is damaged.
        """
        view = self._seen(row, epoch)
        write_values(view.pixels, values)
        if view.labels is not None and labels is not None:
            write_values(view.labels, labels)
        return view.key

    def write_mask(self, key: str, epoch: int, step: int, turn: int, values: Values) -> str:
        """Write a sample's mask as :meth:`make` makes it; return its id.

        Args:
            key: of the sample.
            epoch: as in :meth:`make`.
            step: as in :meth:`make`.
            turn: as in :meth:`make`.
            values: [1, S, S] float32, filled with 1 in the hole and 0 elsewhere.
        """
        mask = self.mask(key, epoch, step, turn)
        values[0] = mask.hole
        return mask.id

    def write_pixels(
        self, row: int, epoch: int, pixels: Pixels, labels: Pixels | None = None
    ) -> str:
        """Write a sample's image as bytes, RGB [S, S, 3]; otherwise as :meth:`write_image`."""
        view = self._seen(row, epoch)
        pixels[:] = view.pixels
        if view.labels is not None and labels is not None:
            labels[:] = view.labels
        return view.key

    def write_bits(self, key: str, epoch: int, step: int, turn: int, bits: Pixels) -> str:
        """Write a sample's mask as bits, [S, ceil(S / 8)]; otherwise as :meth:`write_mask`.

        The first of the eight pixels of a byte is its highest bit.
        """
        mask = self.mask(key, epoch, step, turn)
        bits[:] = np.packbits(mask.hole, axis=1)
        return mask.id

    def _seen(self, row: int, epoch: int) -> View:
        """Return a sample's transformed image; each thread remembers its last."""
        if self.config.masks_per_image == 1:
            return self._viewed(row, epoch)
        last: tuple[tuple[int, int], View] | None = getattr(self._last, "seen", None)
        if last is None or last[0] != (row, epoch):
            last = (row, epoch), self._viewed(row, epoch)
            self._last.seen = last
        return last[1]

    def _viewed(self, row: int, epoch: int) -> View:
        if self.config.skip_damaged:
            row, (image, labels) = self._intact(row)
        else:
            image, labels = self._decoded(row)
        key = self.reader.key(row)
        seen = None if labels is None else self.view(labels, key, epoch, labels=True)
        return View(key=key, pixels=self.view(image, key, epoch), labels=seen)

    def _decoded(self, row: int) -> Decoded:
        """Return an image whole, or as small as the transform allows if that is wanted."""
        least = self.config.least_side_px if self.config.scaled_decoding else 0
        image = decode(self.reader, row, least)
        if not self.config.label_maps:
            return image, None
        height, width = image.shape[:2]
        return image, resize(decode_labels(self.reader, row), height, width, labels=True)

    def _intact(self, row: int) -> tuple[int, Decoded]:
        """Return a row and its image, or the next row whose image is intact, cyclically."""
        total = len(self.reader.keys)
        for ahead in range(min(total, MOST_DAMAGED_IN_A_ROW + 1)):
            found = (row + ahead) % total
            try:
                return found, self._decoded(found)
            except DamagedSampleError as error:
                last = error
                if found not in self._named:
                    self._named.add(found)
                    logger.warning("%s; left out, the next intact sample stands in", error)
        raise UserError(
            f"{min(total, MOST_DAMAGED_IN_A_ROW + 1)} samples in a row are damaged, "
            f"the last: {last}"
        )


def uniform_numbers(number: int) -> tuple[float, float, float, float]:
    """Return four numbers, uniform in [0, 1), from the digits of one of 128 bits."""
    first, second, third, fourth = ((number >> shift & 0xFFFFFFFF) / 2**32 for shift in SHIFTS)
    return first, second, third, fourth


def require_large_enough(manifest: Manifest, size_px: int) -> None:
    """Refuse a set that holds an image smaller than a crop.

    Raises:
        UserError: naming the first such image, and how many there are.
    """
    table = manifest.samples
    smaller = pc.or_(pc.less(table["height_px"], size_px), pc.less(table["width_px"], size_px))
    rows = np.flatnonzero(smaller.to_numpy())
    if not rows.size:
        return
    first = manifest.row(int(rows[0]))
    others = f", and so are {rows.size - 1} others" if rows.size > 1 else ""
    raise UserError(
        f"sample {first['key']!r} of {manifest.location} is {first['width_px']}x"
        f"{first['height_px']} px, smaller than the crop of {size_px} px{others}; give a smaller "
        "--data.image-size-px, or --data.crop squash, or --data.enlarge-small-images"
    )


def decode(reader: ShardReader, row: int, least_side_px: int = 0) -> Pixels:
    """Return a sample's whole image, RGB [H, W, 3] uint8, upright as its EXIF tag says.

    Args:
        reader: of its set.
        row: of the manifest.
        least_side_px: short side at which a JPEG may be decoded reduced; 0 for never.

    Raises:
        UserError: if the bytes are not an image, or not one of the manifest's size.
    """
    data = reader.read(row)
    height, width = reader.heights[row], reader.widths[row]
    plain = reader.plain(row)
    part = divisor(height, width, least_side_px) if plain and is_jpeg(data) else 1
    try:
        image = decode_sample(data, part) if plain else decode_any(data)
    except RejectedError as error:
        raise reader.damaged(row, str(error)) from error
    if image is None:
        raise reader.damaged(row, "its bytes are not an image")
    if image.shape[:2] != (-(-height // part), -(-width // part)):
        found = f"{image.shape[1]}x{image.shape[0]}"
        raise reader.damaged(row, f"it is {found} px, the manifest says {width}x{height}")
    return image


def decode_labels(reader: ShardReader, row: int) -> Pixels:
    """Return a sample's whole label map, RGB [H, W, 3] uint8.

    Raises:
        UserError: if the set has none, or the image is damaged or has another size.
    """
    labels = decode_sample(reader.read_labels(row))
    if labels is None or labels.shape[:2] != (reader.heights[row], reader.widths[row]):
        raise reader.damaged(row, "its label map is not an image of its size")
    return labels


def divisor(height: int, width: int, least_side_px: int) -> int:
    """Return by how much, 1, 2, 4 or 8, an image may be reduced to sides of at least so much."""
    short = min(height, width)
    parts = (part for part in (8, 4, 2) if least_side_px and short // part >= least_side_px)
    return next(parts, 1)


def decode_any(data: bytes) -> Pixels:
    """Return an image of any kind that sharding takes: RGB [H, W, 3] uint8, upright.

    Raises:
        RejectedError: if it is damaged, of a kind that is not read, or too large.
    """
    return decode_original(data, read_header(data))


def rescale(image: Pixels, config: BatchConfig, labels: bool = False) -> Pixels:
    """Resize an image, keeping its aspect ratio, before windows are cut from it."""
    short = min(image.shape[:2])
    wanted = config.resize_short_side_px or short
    if config.crop not in ("random", "centre"):
        return image
    if config.enlarge_small_images:
        wanted = max(wanted, config.image_size_px)
    if wanted == short:
        return image
    height, width = (max(wanted, round(side * wanted / short)) for side in image.shape[:2])
    return resize(image, height, width, labels)


def resize_at_random(
    image: Pixels, config: BatchConfig, uniform: float, labels: bool = False
) -> Pixels:
    """Reduce an image so that its short side is 1 to ``random_resize`` times image_size_px.

    Args:
        image: RGB [H, W, 3].
        config: gives both numbers.
        uniform: in [0, 1): where the ratio lies between both ends, on a logarithmic scale. An image
            whose short side is less than the largest ratio has its own as the largest.
        labels: whether it is a label map.
    """
    short = min(image.shape[:2])
    largest = max(1.0, min(config.random_resize, short / config.image_size_px))
    wanted = round(config.image_size_px * largest**uniform)
    if wanted >= short:
        return image
    height, width = (max(wanted, round(side * wanted / short)) for side in image.shape[:2])
    return resize(image, height, width, labels)


def crop_image(
    image: Pixels, size: int, crop: Crop, down: float, across: float, labels: bool = False
) -> Pixels:
    """Return the [size, size, 3] crop of an image at ``down`` and ``across``, each in [0, 1)."""
    height, width = image.shape[:2]
    if crop == "squash":
        return resize(image, size, size, labels)
    if crop == "centre_square":
        side = min(height, width)
        return resize(crop_image(image, side, "centre", 0, 0), size, size, labels)
    if crop == "subsample":
        doubled = resize(image, 2 * size, 2 * size, labels)
        return doubled[int(2 * down) :: 2, int(2 * across) :: 2]
    if crop == "centre":
        top, left = (height - size) // 2, (width - size) // 2
    else:
        top, left = int(down * (height - size + 1)), int(across * (width - size + 1))
    return image[top : top + size, left : left + size]


def resize(image: Pixels, height: int, width: int, labels: bool = False) -> Pixels:
    """Resize: by area when reducing, so that nothing aliases, bicubic when enlarging.

    A label map takes the nearest pixels instead: its colours must not be mixed.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    method = cv2.INTER_NEAREST_EXACT if labels else method
    resized: Pixels = cv2.resize(image, (width, height), interpolation=method)
    return resized


def jitter(pixels: Pixels, amount: float, key: str, epoch: int, seed: int) -> Pixels:
    """Change brightness, contrast, saturation and hue of an RGB image by up to ``amount``."""
    transform = _colour_jitter(amount, threading.get_ident())
    transform.set_random_seed(number_for("colour", key, epoch, seed) % 2**32)
    changed: Pixels = transform(image=pixels)["image"]
    return changed


@lru_cache(maxsize=256)
def _colour_jitter(amount: float, thread: int) -> Any:
    """Return a transform of this thread's own: it keeps the seed of the sample in hand."""
    del thread
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations  # takes two seconds; only jitter needs it

    spread = (1 - amount, 1 + amount)
    return albumentations.Compose(
        [
            albumentations.ColorJitter(
                brightness=spread,
                contrast=spread,
                saturation=spread,
                hue=(-amount, amount),
                p=1.0,
            )
        ]
    )


def load_sample(
    manifest: Manifest,
    row: int,
    image_size_px: int,
    crop: Crop = "centre",
    *,
    labels: bool = False,
) -> Pixels:
    """Return one image as evaluation sees it: RGB, [S, S, 3] uint8, the same every time.

    Args:
        manifest: of the shard set.
        row: of the manifest.
        image_size_px: S.
        crop: as in :class:`BatchConfig`; "random" takes the centre.
        labels: whether to return the same part of its label map instead.

    Raises:
        UserError: if the sample is damaged, or smaller than the window, or has no label map.
    """
    chosen: Crop = "centre" if crop == "random" else crop
    config = BatchConfig(crop=chosen, image_size_px=image_size_px)
    alone = replace(manifest, samples=manifest.samples.slice(row, 1))  # do not copy the other rows
    if config.keeps_scale:
        require_large_enough(alone, image_size_px)
    reader = ShardReader(alone, cache_for(manifest, config), verify=True)
    whole = decode_labels(reader, 0) if labels else decode(reader, 0)
    window = crop_image(whole, image_size_px, chosen, 0.5, 0.5, labels)
    return np.ascontiguousarray(window)


def load_whole(manifest: Manifest, row: int) -> Pixels:
    """Return one image as it is stored: RGB, [H, W, 3] uint8.

    Raises:
        UserError: if the sample is damaged.
    """
    alone = replace(manifest, samples=manifest.samples.slice(row, 1))
    return decode(ShardReader(alone, cache_for(manifest, BatchConfig()), verify=True), 0)


def cache_for(manifest: Manifest, config: BatchConfig) -> ShardCache | None:
    """Return the node's cache of a set's shards; None for plain tars on local disk."""
    packed = any(is_compressed(record.name) for record in manifest.shards)
    if not storage.is_remote(manifest.location) and not packed:
        return None
    return ShardCache(config.cache_folder, math.ceil(config.cache_size_gb * 1e9))
