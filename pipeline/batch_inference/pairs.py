"""Find the mask and the output path of each image in a folder."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from infill.pipeline import storage
from infill.pipeline.batch_inference.config import SETTINGS
from infill.pipeline.errors import UserError, printable
from infill.pipeline.images import encode_mask, upright_size
from infill.pipeline.images.kinds import is_read, suffix_if_unread
from infill.pipeline.masks import MaskConfig, generate_mask
from infill.pipeline.sources import SUFFIXES
from infill.pipeline.sources.stores import StoredFile, count_lost_folder, open_store

MASK_SUFFIX = "_mask"
_NUMBERED = re.compile(r"_mask\d*$")
"""The end of a mask's stem: name_mask, or name_mask001 as LaMa's data has it."""
_WRITTEN = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image of the folder, with its mask and output."""

    name: str
    """Printable path of the image within the folder."""
    image: str
    """Location of the image."""
    mask: str
    """Location of its mask; empty if the mask is generated or missing."""
    output: str
    """Path of its composite within the output folder."""
    hint: str = ""
    """Without a mask: what has nearly the name of one."""

    def columns(self) -> dict[str, str | bytes]:
        """Return the fields for a table, whose text is UTF-8, as names of files need not be."""
        files = {name: os.fsencode(getattr(self, name)) for name in ("image", "mask", "output")}
        return {"name": self.name, **files, "hint": self.hint}

    @classmethod
    def of_columns(cls, row: Mapping[str, Any]) -> "Pair":
        """Return the pair of :meth:`columns`."""
        return cls(**{name: os.fsdecode(value) for name, value in row.items()})


def list_pairs(folder: str, masks: str, output_suffix: str, out: str = "") -> list[Pair]:
    """Pair every image under a folder with its mask, sorted by name.

    A mask is looked for in ``masks``: a file of the same path and stem, or ``name_mask.*``; or it
    is that one file for every image. Without ``masks`` it is ``name_mask.*`` beside ``name.*``.
    ``name_mask001.*`` is read as well; an image with several of these becomes a pair for each.

    Masks and composites that lie under the folder are not images: ``masks``, ``out``, and every
    folder with the results of another run.

    Args:
        folder: folder of images, with subfolders; local or s3://.
        masks: a folder of masks, one mask file, or empty.
        output_suffix: suffix of the composites, such as ``.png``; empty keeps the image's.
        out: folder of the composites.

    Raises:
        UserError: if there are no images, two would have the same output, or a composite would
            overwrite an image or a mask.
    """
    if out and _same(folder, out):
        raise UserError(
            f"{out} is the folder of the images, which composites would overwrite; give another OUT"
        )
    if out and masks and _same(masks, out):
        raise UserError(
            f"{out} is the folder of the masks, which composites would overwrite; give another OUT"
        )
    masks = "" if masks and _same(masks, folder) else masks
    found = list_images(folder, [path for path in (masks, out) if path])
    stems = {_stem(name) for name in found}
    images = [name for name in found if not _is_mask(name, stems)]
    if not images:
        raise UserError(
            f"{folder} holds no images ({', '.join(SUFFIXES[:6])} ...); give another folder"
        )
    find = MaskFinder(folder, found, masks, out)
    pairs = []
    for name in images:
        own = PurePosixPath(name).suffix
        suffix = output_suffix or (own if own.lower() in _WRITTEN else ".png")
        several = find.all(name)
        for mask in several or [""]:
            stem = _stem(name) if len(several) < 2 else _with_name_of(name, mask)
            pairs.append(
                Pair(
                    name=printable(name),
                    image=storage.join(folder, name),
                    mask=mask,
                    output=printable(stem + suffix) if storage.is_remote(out) else stem + suffix,
                    hint="" if mask else find.hint(name),
                )
            )
    _refuse_collisions(pairs)
    if out:
        _refuse_overwriting(pairs, out)
    return pairs


def list_images(location: str, without: Iterable[str] = (), whole: bool = False) -> list[str]:
    """Return the sorted relative paths of every image file under a folder.

    Files are listed as every source lists them: hidden files and folders are passed over, and a
    folder that is linked into itself is listed once. Folders below it with the results of a run are
    passed over as well. Names that are not UTF-8 are as :func:`os.fsdecode` returns them.

    Args:
        location: the folder.
        without: files and folders below it that are passed over.
        whole: leave out names at which there is nothing to read, such as links that lead nowhere.
    """
    without = list(without)
    found = [os.fsdecode(one.file) for one in _files(location) if not (whole and one.fault)]
    files = _without_links_into(location, found, without)
    left_out = [inside for path in without if (inside := _inside(location, path))]
    left_out += [
        name.removesuffix(f"/{SETTINGS}") for name in files if name.endswith(f"/{SETTINGS}")
    ]
    below = tuple(f"{path}/" for path in left_out)
    return sorted(
        name
        for name in files
        if is_read(name) and name not in left_out and not name.startswith(below)
    )


def _without_links_into(location: str, files: list[str], paths: list[str]) -> list[str]:
    """Return the files but those that lie in one of the paths by a link to a folder above it."""
    if storage.is_remote(location):
        return files
    real = {folder: _real(storage.join(location, folder)) for folder in {*map(_folder, files)}}
    inside = tuple(f"{_real(path)}/" for path in paths if not _inside(path, location))
    return [name for name in files if not f"{real[_folder(name)]}/".startswith(inside)]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def count_unread(location: str) -> Counter[str]:
    """Return the number of images of kinds that are not read under a folder, by suffix.

    Links that are not followed are counted by name.
    """
    counts = Counter[str]()
    for found in _files(location):
        count_lost_folder(found, counts)
        if suffix := suffix_if_unread(found.path):
            counts[suffix] += 1
    return counts


def _files(location: str) -> list[StoredFile]:
    """Return all visible files under a folder."""
    if not storage.is_remote(location) and not os.path.isdir(storage.absolute(location)):
        raise UserError(f"there is no folder {location}")
    return list(open_store(location).files())


def _real(location: str) -> str:
    if storage.is_remote(location):
        return location.rstrip("/")
    return os.path.realpath(storage.absolute(location))


def _same(one: str, other: str) -> bool:
    return _real(one) == _real(other)


def _inside(folder: str, path: str) -> str:
    """Return a path relative to a folder, or "" if it is not below it."""
    outer = _real(folder).rstrip("/") + "/"
    return _real(path).removeprefix(outer) if _real(path).startswith(outer) else ""


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _with_name_of(name: str, mask: str) -> str:
    """Return the stem of a mask in the folder of an image."""
    return str(PurePosixPath(name).with_name(PurePosixPath(mask).stem))


def _is_mask(name: str, stems: Iterable[str]) -> bool:
    """Return whether a file is the mask of another one in the same listing."""
    stem = _stem(name)
    return bool(_NUMBERED.search(stem)) and _NUMBERED.sub("", stem) in stems


class MaskFinder:
    """Finds an image's mask by its name."""

    def __init__(self, folder: str, beside: list[str], masks: str, out: str = "") -> None:
        single = PurePosixPath(masks).suffix.lower() in SUFFIXES and bool(masks)
        self._single = masks if single else ""
        self._location = masks or folder
        without = [out] if out else []
        names = [] if single else (list_images(masks, without) if masks else beside)
        self._by_stem = {_stem(name): name for name in names}
        self._numbered: dict[str, list[str]] = {}
        self._alike: dict[str, list[str]] = {}
        for name in names:
            stem = _stem(name)
            if _NUMBERED.search(stem):
                self._numbered.setdefault(_NUMBERED.sub("", stem), []).append(name)
            self._alike.setdefault(_plain_stem(name), []).append(name)
        self._same_stem = bool(masks)
        if single and not storage.exists(masks):
            raise UserError(f"there is no mask {masks}")

    def __call__(self, name: str) -> str:
        """Return the location of the mask, or "" if there is none.

        Raises:
            UserError: if there are several.
        """
        found = self.all(name)
        if len(found) > 1:
            masks = ", ".join(map(printable, found))
            raise UserError(f"{printable(name)} has {len(found)} masks, {masks}; keep one of them")
        return found[0] if found else ""

    def all(self, name: str) -> list[str]:
        """Return the locations of the masks: one, several numbered ones, or none."""
        stem = _stem(name)
        if self._same_stem and stem in self._by_stem:
            return [storage.join(self._location, self._by_stem[stem])]
        if numbered := sorted(self._numbered.get(stem, [])):
            return [storage.join(self._location, mask) for mask in numbered]
        return [self._single] if self._single else []

    def hint(self, name: str) -> str:
        """Return a sentence on a file with nearly the name of the image's mask, or ""."""
        here = PurePosixPath(name)
        wanted = f"{here.stem}.png" if self._same_stem else f"{here.stem}{MASK_SUFFIX}.png"
        for other in self._alike.get(_plain_stem(name), []):
            if other != name and (self._same_stem or _looks_like_a_mask(other)):
                right = printable(str(here.with_name(wanted)))
                return f"there is {printable(other)}, which would be its mask as {right}"
        return ""


def _plain_stem(name: str) -> str:
    """Return the name of an image in lower case, without folders, suffixes and "mask"."""
    stem = PurePosixPath(name).name.lower()
    while PurePosixPath(stem).suffix in SUFFIXES:
        stem = PurePosixPath(stem).stem
    return re.sub(r"^masks?[-_. ]+|[-_. ]*masks?[-_. ]*\d*$", "", stem)


def _looks_like_a_mask(name: str) -> bool:
    several = len([s for s in PurePosixPath(name.lower()).suffixes if s in SUFFIXES]) > 1
    return "mask" in name.lower() or several


def _refuse_overwriting(pairs: list[Pair], out: str) -> None:
    """Refuse outputs that are images or masks of the run, as where OUT holds the folder."""
    inputs = {_real(path) for pair in pairs for path in (pair.image, pair.mask) if path}
    for pair in pairs:
        target = storage.join(out, pair.output)
        if _real(target) in inputs:
            raise UserError(
                f"the composite of {pair.name} would overwrite {printable(target)}; give another "
                "OUT"
            )


def _refuse_collisions(pairs: list[Pair]) -> None:
    taken: dict[str, Pair] = {}
    for pair in pairs:
        other = taken.setdefault(pair.output, pair)
        if other is not pair:
            raise UserError(
                f"{other.name} and {pair.name} would both become {printable(pair.output)}; rename "
                "one of them"
            )


def generate_mask_file(
    image: bytes, key: str, recipe: MaskConfig, seed: int, max_pixels: int
) -> bytes:
    """Generate a mask of an image's size, white in the hole; the same for the same key and seed.

    Args:
        image: the image's file; only its header is read.
        key: the image's name.
        recipe: how masks are generated.
        seed: the run's seed.
        max_pixels: maximum height times width.

    Returns:
        A PNG file.

    Raises:
        ImageError: if the image is not accepted.
    """
    height, width = upright_size(image, max_pixels)
    return encode_mask(generate_mask(recipe, key, 0, seed, height, width).hole)
