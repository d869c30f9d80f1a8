"""Kinds of images by their names: which are read here, and what to install for the others."""

import importlib
import importlib.util
from collections import Counter
from functools import cache
from typing import Literal

Format = Literal["png", "jpeg", "webp"]
"""Formats that images are written in."""

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".ppm",
    ".pgm",
    ".jp2",
)
"""Suffixes of images that are always read, in lower case."""
OPTIONAL_FORMATS = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF"}
"""Pillow's formats of images that are read if its build or an extra package reads them."""
_CONVERT = "convert them to PNG or JPEG"
_AVIF = "install a Pillow with AVIF (`pip install 'pillow>=11.3'`)"
_HEIC = "install pillow-heif (`pip install 'infill[heic]'`)"
REMEDIES = {
    ".avif": _AVIF,
    ".heic": _HEIC,
    ".heif": _HEIC,
    **dict.fromkeys((".jxl", ".jxr", ".jpx", ".j2k", ".jpf", ".psd", ".svg", ".exr"), _CONVERT),
    **dict.fromkeys((".hdr", ".tga", ".ico", ".pbm", ".pnm", ".pfm", ".qoi", ".dds"), _CONVERT),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), _CONVERT),
}
"""By suffix of an image that may not be read: what to do."""
_BRANDS = {b"avif": _AVIF, b"avis": _AVIF, b"heic": _HEIC, b"heix": _HEIC, b"mif1": _HEIC}
_JXL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")


@cache
def readable_suffixes() -> tuple[str, ...]:
    """Return those of :data:`OPTIONAL_FORMATS` that this process reads; registers pillow-heif."""
    from PIL import features

    found = [".avif"] if features.check("avif") else []
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
        found += [".heic", ".heif"]
    return tuple(found)


def is_read(path: str) -> bool:
    """Return whether images of a name's kind are read."""
    name = path.lower()
    return name.endswith(SUFFIXES) or (
        name.endswith(tuple(OPTIONAL_FORMATS)) and name.endswith(readable_suffixes())
    )


def suffix_if_unread(path: str) -> str:
    """Return the suffix of an image whose kind is not read here, or "" for any other file."""
    _, dot, ending = path.lower().rpartition(".")
    suffix = dot + ending
    return suffix if suffix in REMEDIES and not is_read(path) else ""


LINKED = "links inside tars: what they name is taken once, under its own name"
SPARSE = "sparse members of tars, which are stored in parts: pack them without --sparse"
OTHER_MEMBERS = "members of tars other than files"
ARCHIVES_BESIDE = "archives inside or beside what is read, which are not opened: unpack them"
MASKS = "masks of images (x.mask.png, x_mask.png or masks/x.png of x.jpg), which are not images"


def is_mask_name(path: str) -> bool:
    """Return whether a name is that of a mask beside an image, as WebDatasets have it."""
    parts = path.lower().rpartition("/")[2].split(".")
    return len(parts) > 2 and parts[-2] in ("mask", "masks", "hole")


def passed_over_lines(counts: Counter[str]) -> list[str]:
    """Return a line for each kind of files that was passed over: how many, and what to do."""
    others = [f"passed over: {n} {why}" for why, n in sorted((+counts).items()) if why[0] != "."]
    return others + [
        f"passed over: {count} {'files' if count > 1 else 'file'} {suffix}, which are not read "
        f"here: {REMEDIES[suffix]}"
        for suffix, count in sorted(counts.items())
        if suffix in REMEDIES
    ]


def unread_kind(data: bytes) -> str:
    """Return what an image of another kind is and what to do, by its first bytes, or ""."""
    if data[4:8] == b"ftyp" and data[8:12] in _BRANDS:
        return f"an image of a kind that is not read here ({_BRANDS[data[8:12]]})"
    if data.startswith(_JXL):
        return "a JPEG XL image, which is not read: convert it to PNG or JPEG"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "a TIFF of a layout that is not read: convert it to PNG or JPEG"
    return ""
