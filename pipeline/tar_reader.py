"""Read tars to their end: joined by ``cat`` too, and damage between members is an error.

``tarfile`` alone ends in silence at the first end mark and at a damaged header.
"""

import tarfile
from typing import BinaryIO, Literal


def open_tar(
    stream: BinaryIO, mode: Literal["r:", "r|*"] = "r:", end: int | None = None
) -> tarfile.TarFile:
    """Open a tar, or several that are joined, whose members are then read in order.

    Args:
        stream: the file, at the tar's begin.
        mode: "r:" for a file with random access, "r|*" for a stream, compressed or not.
        end: where the tar ends, for a tar within another one; None for the end of the file.

    Raises:
        tarfile.TarError: if it is damaged; reading its members raises it, too.
    """
    fileobj = stream if end is None else _Part(stream, end)
    return tarfile.open(
        fileobj=fileobj,  # type: ignore[arg-type]  # a part has what tarfile uses
        mode=mode,  # type: ignore[arg-type]  # the stubs know one literal at a time
        errors="backslashreplace",
        ignore_zeros=True,
        tarinfo=_StrictMember,
    )


class _StrictMember(tarfile.TarInfo):
    """A member whose damaged header is an error: ``ignore_zeros`` would search for the next."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_StrictMember":
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile)
        except _InvalidHeaderError as error:
            raise _ReadError(f"{error} at byte {tarfile.offset}") from error


_InvalidHeaderError = tarfile.InvalidHeaderError  # type: ignore[attr-defined]
_ReadError = tarfile.ReadError


class _Part:
    """The start of a file, up to a position."""

    def __init__(self, stream: BinaryIO, end: int) -> None:
        self._stream, self._end = stream, end

    def read(self, size: int) -> bytes:
        """Read at most to the end of the part."""
        return self._stream.read(max(0, min(size, self._end - self._stream.tell())))

    def seek(self, position: int) -> int:
        """Move to a position of the file."""
        return self._stream.seek(position)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._stream.tell()
