"""The pairs of image and mask, known before anything is read.

Pair p of a test set is the same image and the same hole for every checkpoint, on every machine: a
function of manifest, groups, repeats and seed. So two models are always scored on the same pairs,
and any worker can score any of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infill.pipeline import storage
from infill.pipeline.errors import UserError, printable
from infill.pipeline.evaluation.config import EvaluationConfig
from infill.pipeline.evaluation.protocols import Crop, Group
from infill.pipeline.images import ByteHole, Pixels
from infill.pipeline.loading import load_sample, load_whole
from infill.pipeline.manifest import Manifest
from infill.pipeline.masks import Mask, MaskConfig, check_mask_files, generate_mask, random_for
from infill.pipeline.masks.exact import resize_mask
from infill.pipeline.masks.mask_files import list_images, read_mask_file

MOST_PARTS = 200
"""Maximum number of parts of an evaluation, so that listing them stays fast."""
AT_ONE_SIZE = (
    "a model that takes label maps is evaluated at one size and in one piece: leave out protocols "
    "at the original size, and subsampling"
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image under one mask."""

    index: int
    row: int
    """Row of the image in the manifest."""
    key: str
    source: str
    """The original photograph: pairs that share it are not independent."""
    group: Group
    repeat: int
    """Number of the mask for this image and group; the recipe uses it as the epoch."""


class Pairs(ABC):
    """All pairs of an evaluation; those of one image are consecutive."""

    manifest: Manifest
    groups: tuple[Group, ...]
    """The columns of the table."""
    image_size_px: int
    crop: Crop
    batch_size: int

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pairs."""

    @abstractmethod
    def __getitem__(self, index: int) -> Pair:
        """Return one pair, without reading it."""

    @abstractmethod
    def mask(self, pair: Pair) -> Mask:
        """Return a pair's mask."""

    @abstractmethod
    def rows(self) -> list[int]:
        """Return the manifest's rows of the images that are used."""

    @property
    def identity(self) -> str:
        """The identity of these pairs, beside settings and data."""
        return ""

    def image(self, pair: Pair) -> Pixels:
        """Read a pair's image: uint8 [H, W, 3]."""
        if self.crop == "original":
            return load_whole(self.manifest, pair.row)
        image: Pixels = load_sample(self.manifest, pair.row, self.image_size_px, crop=self.crop)
        return image

    def labels(self, pair: Pair) -> Pixels:
        """Read the label map of a pair's image: uint8 [H, W, 3].

        Raises:
            UserError: if the set has no label maps, or images are scored at their original size.
        """
        if self.crop == "original":
            raise UserError(AT_ONE_SIZE)
        labels: Pixels = load_sample(
            self.manifest, pair.row, self.image_size_px, crop=self.crop, labels=True
        )
        return labels

    def size(self, row: int) -> tuple[int, int]:
        """Return height and width of an image, by its row in the manifest."""
        if self.crop != "original":
            return self.image_size_px, self.image_size_px
        samples = self.manifest.samples
        return samples["height_px"][row].as_py(), samples["width_px"][row].as_py()

    @property
    def least_side_px(self) -> int:
        """The shortest side of any image that is used."""
        return min(min(self.size(row)) for row in self.rows())

    def batches(self, indices: Sequence[int]) -> Iterator[Sequence[int]]:
        """Split pairs into batches; images of different sizes go one by one."""
        at_once = 1 if self.crop == "original" else self.batch_size
        for start in range(0, len(indices), at_once):
            yield indices[start : start + at_once]

    @property
    def pairs_per_part(self) -> int:
        """Pairs that are scored, written and resumed as a whole: so many batches."""
        least = -(-len(self) // MOST_PARTS)
        return -(-least // self.batch_size) * self.batch_size

    @property
    def num_parts(self) -> int:
        """Parts that are scored, written and resumed as a whole."""
        return -(-len(self) // self.pairs_per_part)

    def part(self, number: int) -> range:
        """Return the pairs of a part."""
        first = number * self.pairs_per_part
        return range(first, min(first + self.pairs_per_part, len(self)))

    def examples(self, count: int) -> list[int]:
        """Return pairs to show: spread over all of them, each from the next group in turn."""
        count = min(count, len(self))
        chosen = []
        for number in range(count):
            first = number * len(self) // count
            wanted = self.groups[number % len(self.groups)].name
            stretch = range(first, max(first + 1, (number + 1) * len(self) // count))
            chosen.append(next((i for i in stretch if self[i].group.name == wanted), first))
        return chosen

    def require_large_enough(self) -> None:
        """Refuse images that are smaller than the crop.

        Raises:
            UserError: naming the first of them.
        """
        if self.crop != "centre":
            return
        samples = self.manifest.samples.take(self.rows())
        least = pc.min_element_wise(samples["height_px"], samples["width_px"])
        small = pc.index(pc.less(least, self.image_size_px), True).as_py()
        if small >= 0:
            raise UserError(
                f"image {samples['key'][small]} of {self.manifest.location} is "
                f"{samples['width_px'][small]}x{samples['height_px'][small]} px, smaller than the "
                f"crop of {self.image_size_px} px; give a smaller --image-size-px, or --crop squash"
            )

    def describe(self, index: int, row: int, group: Group, repeat: int) -> Pair:
        """Return the pair of a manifest's row."""
        samples = self.manifest.samples
        return Pair(
            index=index,
            row=row,
            key=samples.column("key")[row].as_py(),
            source=samples.column("source")[row].as_py(),
            group=group,
            repeat=repeat,
        )


class GeneratedPairs(Pairs):
    """Every image with masks from each group's recipe, as a pure function of the settings."""

    def __init__(self, config: EvaluationConfig, manifest: Manifest, image_size_px: int) -> None:
        """Assign masks to a test set.

        Raises:
            UserError: if the set has no image or fewer than asked for, or one is smaller than the
                crop.
        """
        self.manifest = manifest
        self.groups = config.groups
        self.image_size_px = image_size_px
        self.crop = config.setting.crop
        self.batch_size = config.batch_size
        self.repeats = config.pairs_per_image
        self.images = config.num_images or len(manifest)
        self.seed = config.seed
        if not len(manifest):
            raise UserError(f"the test set {manifest.location} holds no image")
        if self.images > len(manifest):
            raise UserError(
                f"the test set {manifest.location} holds {len(manifest):,} images, fewer than "
                f"--num-images {self.images:,}; lower it, or leave it out to evaluate all"
            )
        self.require_large_enough()
        for group in self.groups:
            check_mask_files(group.masks)

    def __len__(self) -> int:
        """Return the number of pairs: images, times groups, times masks of each."""
        return self.images * len(self.groups) * self.repeats

    def __getitem__(self, index: int) -> Pair:
        """Return pair ``index``; within an image they go group by group."""
        rest, repeat = divmod(index, self.repeats)
        row, group = divmod(rest, len(self.groups))
        return self.describe(index, row, self.groups[group], repeat)

    def rows(self) -> list[int]:
        """Return the first rows of the manifest."""
        return list(range(self.images))

    def mask(self, pair: Pair) -> Mask:
        """Generate a pair's mask."""
        height, width = self.size(pair.row)
        return generate_mask(pair.group.masks, pair.key, pair.repeat, self.seed, height, width)


class FrozenPairs(Pairs):
    """The pairs of a file of another evaluation, with the holes in the file."""

    def __init__(self, config: EvaluationConfig, manifest: Manifest) -> None:
        """Find every pair's image in a test set.

        Raises:
            UserError: if the file is missing or not a file of pairs, or an image is not in the set.
        """
        self.location = storage.absolute(config.pairs)
        self.table, self._identity = _read_pairs(self.location)
        self.manifest = manifest
        self.crop = config.setting.crop
        self.batch_size = config.batch_size
        self.image_size_px = self.table["height_px"][0].as_py()
        self._require_squares()
        # The holes are in the file: only the range of the recipe is used.
        self.groups = tuple(
            Group(name=name, masks=MaskConfig(), in_all=in_all)
            for name, in_all in dict.fromkeys(
                zip(self.table["group"].to_pylist(), self.table["in_all"].to_pylist(), strict=True)
            )
        )
        self._rows = self._find_rows()
        self._require_whole_images()
        self.require_large_enough()

    @property
    def identity(self) -> str:
        """The file's SHA-256."""
        return self._identity

    def __len__(self) -> int:
        """Return the number of pairs in the file."""
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> Pair:
        """Return a line of the file."""
        name = self.table["group"][index].as_py()
        group = next(group for group in self.groups if group.name == name)
        return self.describe(index, self._rows[index], group, repeat=0)

    def rows(self) -> list[int]:
        """Return the rows of the images, each once."""
        return sorted(set(self._rows))

    def mask(self, pair: Pair) -> Mask:
        """Unpack a pair's mask."""
        height, width = self.size(pair.row)
        bits = np.frombuffer(self.table["hole"][pair.index].as_py(), np.uint8)
        hole = np.unpackbits(bits, count=height * width).reshape(height, width)
        return Mask(hole=hole, id=self.table["mask_id"][pair.index].as_py())

    def _require_squares(self) -> None:
        sides = {*self.table["height_px"].to_pylist(), *self.table["width_px"].to_pylist()}
        if self.crop != "original" and len(sides) != 1:
            raise UserError(
                f"the pairs of {self.location} are not squares of one size but of sides from "
                f"{min(sides)} to {max(sides)} px: they belong to whole images; give "
                "--crop original"
            )

    def _find_rows(self) -> list[int]:
        samples = self.manifest.samples
        keys = samples["key"].to_pylist()
        row_of_key = {key: row for row, key in enumerate(keys)}
        checksums = samples["sha256"].to_pylist()
        rows = []
        for key, checksum in zip(
            self.table["key"].to_pylist(), self.table["image_sha256"].to_pylist(), strict=True
        ):
            if key not in row_of_key:
                raise UserError(
                    f"{self.location} pairs image {key!r} with a mask, but the test set "
                    f"{self.manifest.location} has no such image; give the set it was made for"
                )
            if checksums[row_of_key[key]] != checksum:
                raise UserError(
                    f"image {key!r} of {self.manifest.location} is not the image that "
                    f"{self.location} was made with: their SHA-256 differ"
                )
            rows.append(row_of_key[key])
        return rows

    def _require_whole_images(self) -> None:
        for index, row in enumerate(self._rows):
            pair = (self.table["height_px"][index].as_py(), self.table["width_px"][index].as_py())
            if pair != self.size(row):
                height, width = self.size(row)
                raise UserError(
                    f"{self.location} holds a hole of {pair[1]}x{pair[0]} px for the image "
                    f"{self.table['key'][index].as_py()!r}, which is {width}x{height} px; leave "
                    "out --crop original"
                )


class PublishedPairs(GeneratedPairs):
    """Every image with one file of a published set of masks, as it is, and the other groups.

    A permutation assigns the files to the images; with fewer files than images it is repeated. The
    column of a pair is that of its hole ratio, the nearest if it lies outside all ranges.
    """

    def __init__(self, config: EvaluationConfig, manifest: Manifest, image_size_px: int) -> None:
        """Assign mask files to a test set.

        Raises:
            UserError: as :class:`GeneratedPairs`, or if a mask file cannot be used.
        """
        super().__init__(config, manifest, image_size_px)
        self.of_files = tuple(group for group in self.groups if group.masks.recipe == "files")
        self.others = tuple(group for group in self.groups if group not in self.of_files)
        self.folder = config.masks.folder
        self.files = [name for name, _ in list_images(self.folder)]

    def __len__(self) -> int:
        """Return the number of pairs: a mask file, and one mask of every other group, an image."""
        return self.images * (1 + len(self.others)) * self.repeats

    def __getitem__(self, index: int) -> Pair:
        """Return pair ``index``; an image's mask file comes first."""
        rest, repeat = divmod(index, self.repeats)
        row, position = divmod(rest, 1 + len(self.others))
        if position:
            return self.describe(index, row, self.others[position - 1], repeat)
        ratio = float(self._file_hole(row, repeat).mean())
        return self.describe(index, row, self._group_of(ratio), repeat)

    @property
    def use_of_files(self) -> str:
        """How often each mask file is used, as a sentence."""
        files, uses = len(self.files), self.images
        found = f"{files:,} mask files for {uses:,} images: "
        if files > uses:
            return f"{found}{uses:,} files are used, once each, as the seed decides"
        times = f"{uses // files:,} times" if uses // files > 1 else "once"
        if uses % files:
            times = f"{uses // files:,} or {uses // files + 1:,} times"
        return f"{found}each file is used {times}"

    @property
    def identity(self) -> str:
        """That files are paired one by one; settings and data name the files."""
        return "one mask file for each image"

    def mask(self, pair: Pair) -> Mask:
        """Return a pair's mask; that of a file has the file's name as its id.

        Raises:
            UserError: if a file has no hole, or only hole, at the image's size.
        """
        if pair.group not in self.of_files:
            return super().mask(pair)
        file, (height, width) = self._file(pair.row, pair.repeat), self.size(pair.row)
        hole = resize_mask(self._file_hole(pair.row, pair.repeat), height, width)
        if cv2.countNonZero(hole) in (0, hole.size):
            raise UserError(
                f"masks: {printable(storage.join(self.folder, file))} has pixels of both kinds in "
                f"every pixel of {width} x {height}: remove it or replace it"
            )
        return Mask(hole=hole, id=f"file:{file}")

    def _group_of(self, ratio: float) -> Group:
        """Return the group whose range has a hole ratio, or the nearest."""

        def distance(group: Group) -> float:
            return max(group.masks.min_hole_ratio - ratio, ratio - group.masks.max_hole_ratio, 0.0)

        inside = [group for group in self.of_files if distance(group) == 0]
        fitting = [group for group in inside if ratio > group.masks.min_hole_ratio]
        return (fitting or inside or [min(self.of_files, key=distance)])[0]

    def _file(self, row: int, repeat: int) -> str:
        order = _order(len(self.files), self.seed, repeat)
        return self.files[int(order[row % len(self.files)])]

    def _file_hole(self, row: int, repeat: int) -> ByteHole:
        rule = self.of_files[0].masks.rule
        return read_mask_file(storage.join(self.folder, self._file(row, repeat)), rule)


@lru_cache(maxsize=8)
def _order(count: int, seed: int, repeat: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return the permutation of mask files for the masks of one number."""
    return random_for("pairing", seed, repeat, count).permutation(count)


def _read_pairs(location: str) -> tuple[pa.Table, str]:
    try:
        data = storage.read(location)
        table = storage.table_of(data)
    except FileNotFoundError as error:
        raise UserError(
            f"there is no file of pairs {location}; an evaluation writes one as pairs.parquet"
        ) from error
    except pa.ArrowInvalid as error:
        raise UserError(f"{location} is not a Parquet file of pairs: {error}") from error
    needed = {"key", "image_sha256", "group", "in_all", "mask_id", "height_px", "width_px", "hole"}
    if missing := sorted(needed - set(table.column_names)):
        raise UserError(f"{location} is not a file of pairs: it lacks {', '.join(missing)}")
    return table, storage.sha256(data)


def lay_pairs(config: EvaluationConfig, manifest: Manifest, trained_size_px: int) -> Pairs:
    """Return the pairs of an evaluation: those of a file, or generated.

    Args:
        config: the evaluation.
        manifest: the manifest of the test set.
        trained_size_px: the training size of the network, the default size.
    """
    if config.pairs:
        return FrozenPairs(config, manifest)
    if config.protocol and config.masks.folder:
        side = config.setting.image_size_px or trained_size_px
        return PublishedPairs(config, manifest, side)
    return GeneratedPairs(config, manifest, config.setting.image_size_px or trained_size_px)
