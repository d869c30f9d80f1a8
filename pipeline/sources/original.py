"""The interface of a source: every original once, in one order, its bytes on demand."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from infill.pipeline.images.kinds import MASKS, is_mask_name, is_read, suffix_if_unread
from infill.pipeline.temporary_folders import UNFINISHED

SPLITS = ("train", "val", "test")
"""The splits of a dataset, in the order in which they are written."""
_SPLIT_NAMES = re.compile(r"(?:(train|training)|(val|valid|validation)|(test|testing))[-_ ]?\d*")
NOT_VISITED = ("@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")
"""Folders in which storage systems keep thumbnails and deleted files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """One original image of a source, as listed."""

    path: str
    """Printable path: relative to the source, with ``/`` between parts."""
    size: int
    """Size of its encoded bytes."""
    file: bytes
    """Path of its file, relative to the source; bytes, as names need not be UTF-8."""
    offset: int | None = None
    """Offset in the file, or of its entry in a zip; None if it is the whole file."""
    packed_size: int | None = None
    """Compressed size in a zip; None if it is not compressed."""
    split: str | None = None
    """"train", "val" or "test" if the source itself defines splits."""
    nested_split: str | None = None
    """Split that any folder names, in any case and usual form: "photos/Train", "val2017". Used if
    every image has one."""


class Source(Protocol):
    """A source that lists originals and reads them; cheap to open, on any machine."""

    @property
    def passed_over(self) -> Counter[str]:
        """Number of images of kinds that are not read, by suffix, once ``originals`` is through."""
        ...

    def originals(self) -> Iterator[Original]:
        """Yield every original once, in an order that does not depend on the machine.

        Raises:
            UserError: if the source is missing or incomplete.
        """
        ...

    def read(self, original: Original) -> bytes:
        """Return the encoded bytes of an original.

        Raises:
            FileNotFoundError: if it no longer exists.
            PermissionError: if it is not readable.
            RejectedError: if it is a damaged member of an archive.
        """
        ...


def is_image_name(path: str) -> bool:
    """Return whether a relative path is that of an image.

    Hidden files and folders do not, nor do files being written (``_tmp-...``) and folders that
    start with ``_`` (such as ``__MACOSX``). A file that starts with ``_`` does: cameras write
    ``_DSC0001.JPG``.
    """
    return is_read(path) and is_visible(path) and not is_mask_name(path)


def count_unread(path: str, counts: Counter[str]) -> None:
    """Count an image of a kind that is not read here by its suffix, and a mask as such."""
    suffix = suffix_if_unread(path)
    if not is_visible(path):
        return
    if suffix:
        counts[suffix] += 1
    elif is_read(path) and is_mask_name(path):
        counts[MASKS] += 1


def is_visible(path: str) -> bool:
    """Return whether a relative path is neither hidden nor being written."""
    *folders, name = path.split("/")
    if any(folder.startswith((".", "_")) or folder in NOT_VISITED for folder in folders):
        return False
    return not name.startswith((".", UNFINISHED))


def nested_split_of(path: str) -> str | None:
    """Return the split that any folder of a path names, as :func:`split_named`, or None."""
    return next(filter(None, map(split_named, path.split("/")[:-1])), None)


def split_named(name: str) -> str | None:
    """Return the split of a name such as "Val", "validation", "testing" or "train2017", or None."""
    found = _SPLIT_NAMES.fullmatch(name.lower())
    return SPLITS[(found.lastindex or 0) - 1] if found else None


def split_of(path: str) -> str | None:
    """Return the split named by a path's first folder, or None."""
    first, slash, _ = path.partition("/")
    return first if slash and first in SPLITS else None
