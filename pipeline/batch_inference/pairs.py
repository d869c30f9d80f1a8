"""Find the mask and the output path of each image in a folder."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow import fs

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.images import encode_mask, upright_size
from infill.pipeline.masks import MaskConfig, generate_mask
from infill.pipeline.sources import SUFFIXES

MASK_SUFFIX = "_mask"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image of the folder, with its mask and output."""

    name: str
    """Path of the image within the folder."""
    image: str
    """Location of the image."""
    mask: str
    """Location of its mask; empty if the mask is generated or missing."""
    output: str
    """Path of its composite within the output folder."""


def list_pairs(folder: str, masks: str, output_suffix: str) -> list[Pair]:
    """Pair every image under a folder with its mask, sorted by name.

    A mask is looked for in ``masks``: a file of the same path and stem, or ``name_mask.*``; or it
    is that one file for every image. Without ``masks`` it is ``name_mask.*`` beside ``name.*``.

    Args:
        folder: folder of images, with subfolders; local or s3://.
        masks: a folder of masks, one mask file, or empty.
        output_suffix: suffix of the composites, such as ``.png``; empty keeps the image's.

    Raises:
        UserError: if there are no images, or two would have the same output.
    """
    found = list_pictures(folder)
    stems = {_stem(name) for name in found}
    pictures = [name for name in found if not _is_mask(name, stems)]
    if not pictures:
        raise UserError(
            f"{folder} holds no images ({', '.join(SUFFIXES[:6])} ...); give another folder"
        )
    find = MaskFinder(folder, found, masks)
    pairs = [
        Pair(
            name=name,
            image=storage.join(folder, name),
            mask=find(name),
            output=_stem(name) + (output_suffix or PurePosixPath(name).suffix),
        )
        for name in pictures
    ]
    _refuse_collisions(pairs)
    return pairs


def list_pictures(location: str) -> list[str]:
    """Return the sorted relative paths of every image file under a folder."""
    system, root = storage.filesystem(location)
    try:
        found = system.get_file_info(fs.FileSelector(root, recursive=True))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"there is no folder {location}") from error
    paths = [PurePosixPath(info.path).relative_to(root) for info in found if info.is_file]
    return sorted(
        str(path)
        for path in paths
        if path.suffix.lower() in SUFFIXES and not path.name.startswith((".", "_tmp-"))
    )


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _is_mask(name: str, stems: Iterable[str]) -> bool:
    """Return whether a file is the mask of another one in the same listing."""
    stem = _stem(name)
    return stem.endswith(MASK_SUFFIX) and stem.removesuffix(MASK_SUFFIX) in stems


class MaskFinder:
    """Finds an image's mask by its name."""

    def __init__(self, folder: str, beside: list[str], masks: str) -> None:
        single = PurePosixPath(masks).suffix.lower() in SUFFIXES and bool(masks)
        self._single = masks if single else ""
        self._location = masks or folder
        names = [] if single else (list_pictures(masks) if masks else beside)
        self._by_stem = {_stem(name): name for name in names}
        self._same_stem = bool(masks)
        if single and not storage.exists(masks):
            raise UserError(f"there is no mask {masks}")

    def __call__(self, name: str) -> str:
        """Return the location of the mask, or "" if there is none."""
        stem = _stem(name)
        for candidate in [stem] * self._same_stem + [stem + MASK_SUFFIX]:
            if candidate in self._by_stem:
                return storage.join(self._location, self._by_stem[candidate])
        return self._single


def _refuse_collisions(pairs: list[Pair]) -> None:
    taken: dict[str, str] = {}
    for pair in pairs:
        other = taken.setdefault(pair.output, pair.name)
        if other != pair.name:
            raise UserError(
                f"{other} and {pair.name} would both become {pair.output}; rename one of them"
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
