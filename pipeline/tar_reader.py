"""Read tars to their end: joined by ``cat`` too, and damage between members is an error.

``tarfile`` alone ends in silence at the first end mark and at a damaged header.
"""

import gzip
import tarfile
import zlib
from typing import BinaryIO, Literal, cast

BLOCK_BYTES = tarfile.BLOCKSIZE
COMPRESSED = (".tar.gz", ".tgz")
"""Suffixes of tars that are compressed as a whole, by gzip."""
GZIP = b"\x1f\x8b"
"""The first bytes of what gzip has compressed."""
DECOMPRESSION_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


def is_compressed(name: str) -> bool:
    """Return whether a tar is compressed, by its name."""
    return name.endswith(COMPRESSED)


def decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    """Return a tar's own bytes as a stream: those of the file, or what gzip has made of them.

    Raises:
        EOFError: when it is read, if it is truncated; see ``DECOMPRESSION_ERRORS`` for the others.
    """
    if not is_compressed(name):
        return stream
    return cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))


def open_tar(
    stream: BinaryIO,
    mode: Literal["r:", "r|*"] = "r:",
    end: int | None = None,
    renamed: bool = False,
) -> tarfile.TarFile:
    """Open a tar, or several that are joined, whose members are then read in order.

    Args:
        stream: the file, at the tar's begin.
        mode: "r:" for a file with random access, "r|*" for a stream, compressed or not.
        end: where the tar ends, for a tar within another one; None for the end of the file.
        renamed: read members whose header has a wrong checksum and is whole otherwise, with "r:".

    Raises:
        tarfile.TarError: if it is damaged; reading its members raises it, too.
    """
    fileobj = stream if end is None else _Part(stream, end)
    return tarfile.open(
        fileobj=fileobj,  # type: ignore[arg-type]  # a part has what tarfile uses
        mode=mode,  # type: ignore[arg-type]  # the stubs know one literal at a time
        errors="backslashreplace",
        ignore_zeros=True,
        tarinfo=_RenamedMember if renamed else _StrictMember,
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


class _RenamedMember(_StrictMember):
    """A member of which only the header's checksum may be wrong, as of one that was renamed."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_RenamedMember":
        """Read the next header."""
        offset = tarfile.offset
        try:
            return cast(_RenamedMember, super().fromtarfile(tarfile))
        except _ReadError:
            if member := cls._with_wrong_checksum(tarfile, offset):
                return member
            raise

    @classmethod
    def _with_wrong_checksum(cls, tarfile: tarfile.TarFile, offset: int) -> "_RenamedMember | None":
        """Return a member whose size leads to the next header or the end, with none between."""
        stream = cast(BinaryIO, tarfile.fileobj)
        stream.seek(offset)
        header = stream.read(BLOCK_BYTES)
        if not _is_header(header):
            return None
        total = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
        mended = header[:148] + b"%06o\0 " % total + header[156:]
        member = cls.frombuf(mended, tarfile.encoding or "utf-8", tarfile.errors or "strict")
        member.offset, member.offset_data = offset, offset + BLOCK_BYTES
        blocks = -(-member.size // BLOCK_BYTES)
        data = stream.read((blocks + 1) * BLOCK_BYTES)
        parts = [data[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES] for n in range(blocks + 1)]
        follows = _is_header(parts[-1]) or parts[-1] == bytes(BLOCK_BYTES)
        if not member.isreg() or not follows or any(map(_is_header, parts[:-1])):
            return None
        tarfile.offset = offset + (blocks + 1) * BLOCK_BYTES
        return member


def _is_header(block: bytes) -> bool:
    """Return whether a block is that of a header, by the magic of POSIX and GNU tars."""
    return block[257:262] == b"ustar"


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
