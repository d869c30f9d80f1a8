"""Images inside zip and tar archives, read in place by an index of offsets.

Tars within a tar are read as well (as in ImageNet). Compressed tars have no random access and are
refused.
"""

import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from infill.pipeline.errors import RejectedError, UserError
from infill.pipeline.images.kinds import ARCHIVES_BESIDE, LINKED, MASKS, OTHER_MEMBERS, SPARSE
from infill.pipeline.sources.mask_names import MaskNames
from infill.pipeline.sources.original import (
    Original,
    count_unread,
    is_image_name,
    is_visible,
    nested_split_of,
    split_of,
)
from infill.pipeline.sources.stores import Store, StoredFile, count_lost_folder
from infill.pipeline.tar_reader import open_tar

ZIP_HEADER = struct.Struct("<4s5HIIIHH")
"""Layout of an entry's header: PKWARE's application note, 4.3.7."""
ZIP_SIGNATURE, ZIP_DESCRIPTOR = b"PK\x03\x04", b"PK\x07\x08"
ZIP_STREAMED = 1 << 3
"""The flag of an entry whose CRC-32 stands behind its bytes: 4.4.4."""
ZIP_DESCRIPTOR_BYTES = 8
"""Bytes of a signature and a CRC-32 behind an entry: 4.3.9."""
ZIP_SLACK_BYTES = 1024
"""Bytes read beyond the header, for the name and extra field; longer ones need a second read."""
MAX_INFLATION, FREE_INFLATION_BYTES = 100, 16 * 2**20
"""Maximum ratio of unpacked to packed bytes, and bytes that are free of it: photographs hardly
shrink, and a small plain drawing inflates to few bytes."""
ARCHIVES = (".zip", ".tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_archive(path: str) -> bool:
    """Return whether a file is an archive, by its name."""
    return path.lower().endswith((*ARCHIVES, *COMPRESSED))


@dataclass(frozen=True)
class ArchiveSource:
    """The images in one archive, or in all archives below a folder or prefix.

    Their order is that of the archives' paths and, inside, of the archive itself, so that shards
    read them from front to back.
    """

    store: Store
    name: str | None = None
    """Name of the one archive in the store; None for all archives."""
    passed_over: Counter[str] = field(default_factory=Counter, compare=False)
    """Number of images of kinds that are not read, by suffix."""

    def originals(self) -> Iterator[Original]:
        """Yield the archives' images.

        Raises:
            UserError: if an archive is missing, damaged, truncated, encrypted or compressed as a
                whole.
        """
        self.passed_over.clear()
        for found in self.store.files():
            if not self.name:
                count_lost_folder(found, self.passed_over)
            if is_archive(found.path) and self.name in (None, found.path):
                prefix = "" if self.name else found.path.rpartition(".")[0] + "/"
                yield from members(self.store, found, prefix, self.passed_over)

    def read(self, original: Original) -> bytes:
        """Return a member's bytes."""
        return read_member(self.store, original)


def members(
    store: Store, archive: StoredFile, prefix: str, passed_over: Counter[str] | None = None
) -> Iterator[Original]:
    """Yield an archive's images, with paths and splits as if unpacked under ``prefix``.

    Args:
        store: the store of the archive.
        archive: the archive.
        prefix: what precedes the members' paths.
        passed_over: counts images of kinds that are not read, by suffix.
    """
    counts = Counter[str]() if passed_over is None else passed_over
    if archive.fault:
        raise UserError(f"{archive.path}: {archive.fault}; mend or remove it")
    if archive.path.lower().endswith(COMPRESSED):
        raise UserError(
            f"{archive.path} is compressed as a whole and cannot be read in place; "
            "decompress it to a plain .tar, which is hardly larger with photographs"
        )
    zipped = archive.path.lower().endswith(".zip")
    _require_its_kind(store, archive, zipped)
    found = _zip if zipped else _tar
    try:
        yield from _numbered(found(store, archive, prefix, counts))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, struct.error) as error:
        raise UserError(
            f"{archive.path} is damaged or truncated ({error}); fetch it again"
        ) from error


def _numbered(originals: Iterator[Original]) -> Iterator[Original]:
    """Yield originals, those of a repeated path as ``a~2.jpg``, as joined tars may have them."""
    seen: dict[int, int] = {}  # by hash, as an archive may hold millions
    for original in originals:
        key = hash(original.path)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            stem, dot, suffix = original.path.rpartition(".")
            yield replace(original, path=f"{stem}~{seen[key]}{dot}{suffix}")
        else:
            yield original


def _require_its_kind(store: Store, archive: StoredFile, zipped: bool) -> None:
    """Refuse a zip with the name of a tar, a tar with that of a zip, and packed ones with either.

    A zip may follow other bytes, so only certain signatures count.
    """
    head = store.read(archive.file, 0, tarfile.BLOCKSIZE)
    kinds = {
        "a zip": not zipped and head.startswith((ZIP_SIGNATURE, b"PK\x05\x06")),
        "a tar": zipped and head[257:262] == b"ustar",
        "packed by gzip": head.startswith(b"\x1f\x8b"),
        "a web page": head.lstrip().lower().startswith((b"<!doctype html", b"<html")),
    }
    for kind, found in kinds.items():
        if found:
            raise UserError(
                f"{archive.path} is {kind} by its content; give the plain archive under its own "
                "suffix, .zip or .tar"
            )


def _zip(
    store: Store, archive: StoredFile, prefix: str, counts: Counter[str]
) -> Iterator[Original]:
    with store.open(archive.file) as stream, zipfile.ZipFile(stream) as opened:
        names = {safe_name(info.filename) for info in opened.infolist()}
        stems = {name.rpartition(".")[0] for name in names if is_image_name(name)}
        masks = MaskNames(stems.__contains__)
        for info in opened.infolist():
            name = safe_name(info.filename)
            if stat.S_ISLNK(info.external_attr >> 16):
                counts[LINKED] += is_image_name(name)
                continue
            count_unread(name, counts)
            counts[ARCHIVES_BESIDE] += is_archive(name) and is_visible(name)
            if info.is_dir() or not is_image_name(name):
                continue
            if masks.is_mask(name):
                counts[MASKS] += 1
                continue
            if info.flag_bits & 1:
                raise UserError(f"{archive.path} is encrypted; decrypt it first")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(
                    f"{archive.path} is packed by an unsupported method; pack it with deflate"
                )
            yield Original(
                path=prefix + name,
                size=info.file_size,
                file=archive.file,
                offset=info.header_offset,
                packed_size=info.compress_size,
                split=split_of(prefix + name),
                nested_split=nested_split_of(prefix + name),
            )


def _tar(
    store: Store,
    archive: StoredFile,
    prefix: str,
    counts: Counter[str],
    start: int = 0,
    end: int | None = None,
) -> Iterator[Original]:
    """Yield the images of a tar that lies from ``start`` to ``end`` of the file."""
    with store.open(archive.file) as stream:
        stream.seek(start)
        with open_tar(stream, end=end, renamed=True) as opened:
            position, masks = start, MaskNames()
            for member in opened:
                opened.members = []  # type: ignore[attr-defined]  # or it keeps all it has seen
                position = opened.offset
                path = prefix + safe_name(member.name)
                if not member.isreg() or member.issparse():
                    counts[_why_not(member)] += is_image_name(path)
                    continue
                count_unread(path, counts)
                if path.lower().endswith(".tar"):
                    within, begin = path.rpartition(".")[0] + "/", member.offset_data
                    yield from _tar(store, archive, within, counts, begin, begin + member.size)
                elif is_archive(path):
                    counts[ARCHIVES_BESIDE] += is_visible(path)
                elif is_image_name(path) and masks.is_mask(path):
                    counts[MASKS] += 1
                elif is_image_name(path):
                    yield _tar_member(archive, path, member)
            _require_end(stream, position)


def _why_not(member: tarfile.TarInfo) -> str:
    if member.issparse():
        return SPARSE
    return LINKED if member.islnk() or member.issym() else OTHER_MEMBERS


def safe_name(name: str) -> str:
    """Return a member's path below the archive: without root, drive, ``.`` and ``..``."""
    if "/" not in name:  # as some programs write it on Windows
        name = name.replace("\\", "/")
    name = re.sub(r"^[A-Za-z]:/", "/", name)
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _tar_member(archive: StoredFile, path: str, member: tarfile.TarInfo) -> Original:
    return Original(
        path=path,
        size=member.size,
        file=archive.file,
        offset=member.offset_data,
        split=split_of(path),
        nested_split=nested_split_of(path),
    )


def _require_end(stream: BinaryIO, position: int) -> None:
    """Refuse a truncated tar, without a block of zeros after its last member.

    ``tarfile`` ends silently if the file is cut off between members or in a header.
    """
    stream.seek(position)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("it has no end")


def read_member(store: Store, original: Original) -> bytes:
    """Return the bytes of an image in an archive.

    Raises:
        RejectedError: if they are damaged; the members of a tar have no checksum.
    """
    assert original.offset is not None
    if original.packed_size is None:
        return store.read(original.file, original.offset, original.size)
    if original.size > FREE_INFLATION_BYTES + MAX_INFLATION * original.packed_size:
        raise RejectedError(
            f"{original.packed_size} bytes in its zip inflate to {original.size}, more than an "
            "image needs"
        )
    ahead = ZIP_HEADER.size + ZIP_SLACK_BYTES + original.packed_size
    data = store.read(original.file, original.offset, ahead)
    if len(data) < ZIP_HEADER.size or not data.startswith(ZIP_SIGNATURE):
        raise RejectedError("damaged in its zip: its header is not where the zip's list has it")
    fields = ZIP_HEADER.unpack_from(data)
    begin = ZIP_HEADER.size + fields[9] + fields[10]
    length = original.packed_size + ZIP_DESCRIPTOR_BYTES
    packed = data[begin : begin + length]
    if len(packed) < length:
        packed = store.read(original.file, original.offset + begin, length)
    unpacked = _unpacked(packed[: original.packed_size], fields[3], original.size)
    checksum = _checksum(fields[2], fields[6], packed[original.packed_size :])
    if zlib.crc32(unpacked) != checksum:
        raise RejectedError("damaged in its zip: its CRC-32 differs")
    return unpacked


def _unpacked(packed: bytes, method: int, size: int) -> bytes:
    """Return a member's bytes; never more than the zip's list says, whatever they inflate to."""
    data = packed
    if method == zipfile.ZIP_DEFLATED:
        inflate = zlib.decompressobj(-15)
        try:
            data = inflate.decompress(packed, size + 1)
        except zlib.error as error:
            raise RejectedError(f"damaged in its zip: {error}") from error
    elif method != zipfile.ZIP_STORED:
        raise RejectedError(f"damaged in its zip: packed by the unknown method {method}")
    if len(data) != size:
        found = f"more than {size}" if len(data) > size else str(len(data))
        raise RejectedError(f"damaged in its zip: {found} bytes, its list says {size}")
    return data


def _checksum(flags: int, checksum: int, behind: bytes) -> int:
    """Return a member's CRC-32, which stands behind its bytes if it was written as a stream."""
    if not flags & ZIP_STREAMED:
        return checksum
    begin = 4 if behind.startswith(ZIP_DESCRIPTOR) else 0
    return int.from_bytes(behind[begin : begin + 4], "little")
