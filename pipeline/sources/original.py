"""The interface of a source: every original once, in one order, its bytes on demand."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

SPLITS = ("train", "val", "test")
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
"""Names that count as pictures, in upper or lower case; what is inside is looked at later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """One photograph of a source, as its listing describes it."""

    path: str
    """Its name for people: relative to the source, with ``/`` between parts."""
    size: int
    """Of its encoded bytes."""
    file: bytes
    """The file it lies in, relative to the source; bytes, as names need not be UTF-8."""
    offset: int | None = None
    """Where in the file it begins, or its entry in a zip; None where it is the whole file."""
    packed_size: int | None = None
    """Bytes it takes in a zip; None where it lies as it is."""
    split: str | None = None
    """"train", "val" or "test" where the source itself says so."""


class Source(Protocol):
    """A source that lists originals and reads them; cheap to open, on any machine."""

    def originals(self) -> Iterator[Original]:
        """Yield every original once, in an order that does not depend on the machine.

        Raises:
            UserError: if the source is missing or incomplete.
        """
        ...

    def read(self, original: Original) -> bytes:
        """Return the encoded bytes of an original.

        Raises:
            FileNotFoundError: if it is no longer there.
            PermissionError: if it must not be read.
        """
        ...


def is_picture_name(path: str) -> bool:
    """Return whether a relative path counts as a picture.

    Hidden files and folders do not, nor do files being written (``_tmp-...``) and folders that
    start with ``_`` (such as ``__MACOSX``). A file that starts with ``_`` does: cameras write
    ``_DSC0001.JPG``.
    """
    return path.lower().endswith(SUFFIXES) and is_visible(path)


def is_visible(path: str) -> bool:
    """Return whether a relative path is neither hidden nor being written."""
    *folders, name = path.split("/")
    if any(folder.startswith((".", "_")) for folder in folders):
        return False
    return not name.startswith((".", "_tmp-"))


def split_of(path: str) -> str | None:
    """Return the split named by a path's first folder, or None."""
    first, slash, _ = path.partition("/")
    return first if slash and first in SPLITS else None
