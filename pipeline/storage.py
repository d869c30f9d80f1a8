"""Files at a path or an s3:// address: read, and write atomically.

A *location* is a string: a local path or ``s3://bucket/prefix``. Credentials and endpoint come from
the usual chain (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, profiles, instance roles). Writes are
atomic: a local file is written under another name and renamed; an S3 object appears complete or not
at all.
"""

import errno
import hashlib
import io
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from infill.pipeline import object_store
from infill.pipeline.errors import UserError
from infill.pipeline.store_endpoint import use_plain_checksums
from infill.pipeline.temporary_folders import temporary_file

STORE_ATTEMPTS = 9
"""Number of attempts of every call to a store; their pauses are 40 s in all."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 15.0
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EISDIR}
"""Errors that are not retried."""
BLOCK_BYTES = 8 * 2**20
BUFFER_BYTES = 2**20
PASSWORDS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    **dict.fromkeys(("http", "https"), "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    **dict.fromkeys(("postgresql", "postgresql+psycopg2"), "PGPASSWORD"),
}
"""Variables for passwords, by kind of address; other databases' clients have their own."""

_REFUSED = re.compile(
    r"HTTP status 4(?!08|29)\d\d|ACCESS_DENIED|NO_SUCH_(BUCKET|KEY)|INVALID_ACCESS_KEY|"
    r"SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|INVALID_CLIENT_TOKEN|Empty path component"
)
"""Answers of a store that another attempt does not change."""

NOT_A_FILE = "not a file but a pipe, a socket or a device"

T = TypeVar("T")


class NotAFileError(OSError):
    """A local path at which there is no file to read, but a pipe, a socket or a device."""


def is_remote(location: str) -> bool:
    """Return whether a location is an address rather than a local path."""
    return "://" in location


def join(location: str, *parts: str) -> str:
    """Append path parts to a location."""
    return "/".join([location.rstrip("/") if location != "/" else "", *parts])


def absolute(location: str) -> str:
    """Return a local path made absolute (``~`` expanded); an address is returned as it is."""
    return location if is_remote(location) else os.path.abspath(os.path.expanduser(location))


def refuse_password(address: str) -> None:
    """Refuse an address of a store, server or database that contains a password.

    Addresses are recorded with every run.

    Raises:
        UserError: if there is a password; the message does not repeat it.
    """
    kind, found, rest = address.partition("://")
    user, at, host = rest.partition("/")[0].rpartition("@")
    if found and at and ":" in user:
        raise UserError(
            f"the address {kind}://...@{host} contains a password, which would be recorded "
            "with every result; leave it out and set "
            f"{PASSWORDS.get(kind, 'its password')} in the environment"
        )


def filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a location and the path inside it.

    Raises:
        UserError: if the kind of address is not supported, or it contains a password.
    """
    refuse_password(location)
    use_plain_checksums()
    if not is_remote(location):
        return fs.LocalFileSystem(), absolute(location)
    try:
        if location.startswith("s3://"):
            path = location.removeprefix("s3://").strip("/")
            return object_store.filesystem(path), path
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(location)
    except (ValueError, OSError) as error:
        raise UserError(
            f"cannot use {location}: {error}; give a path or s3://bucket/prefix"
        ) from error
    return found


def require_bucket(location: str) -> None:
    """Refuse an s3:// address whose bucket does not exist, before work is done for it.

    Raises:
        UserError: naming the bucket.
    """
    if not location.startswith("s3://"):
        return
    system, path = filesystem(location)
    bucket = path.partition("/")[0]
    info = retry(lambda: system.get_file_info(bucket))
    if info.type == fs.FileType.NotFound:
        raise UserError(f"there is no bucket {bucket!r} for {location}; create it first")


def _asked(location: str, ask: Callable[[], T]) -> T:
    """Call a store with retries, and a disk once."""
    return retry(ask) if is_remote(location) else ask()


def exists(location: str) -> bool:
    """Return whether a file or folder exists."""
    return bool(info(location).type != fs.FileType.NotFound)


def info(location: str) -> fs.FileInfo:
    """Return the type, size and time of a file or folder; its type says if there is none."""
    system, path = filesystem(location)
    return _asked(location, lambda: system.get_file_info(path))


def names(location: str) -> list[str]:
    """Return the sorted base names directly in a folder; empty if the folder does not exist."""
    return sorted(found.base_name for found in infos(location))


def infos(location: str, recursive: bool = False) -> list[fs.FileInfo]:
    """Return the type, size and time of what lies in a folder, or also below its folders.

    Paths are those inside :func:`filesystem`.
    """
    system, path = filesystem(location)
    selector = fs.FileSelector(path, recursive=recursive, allow_not_found=True)
    return _asked(location, lambda: system.get_file_info(selector))


def read(location: str, offset: int = 0, size: int | None = None) -> bytes:
    """Return a file's bytes, or ``size`` of them (fewer at its end) from ``offset``.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if an object store goes on failing.
    """
    if not is_remote(location):
        with _open_local(location) as file:
            file.seek(offset)
            return file.read(-1 if size is None else size)
    return retry(lambda: _read_object(location, offset, size))


def _open_local(location: str) -> BinaryIO:
    """Open a local file; a pipe, a socket or a device is refused without waiting for it.

    Raises:
        NotAFileError: if it is such a thing.
    """
    path = absolute(location)
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # A socket.
            raise NotAFileError(errno.ENXIO, NOT_A_FILE, path) from error
        raise
    kind = os.fstat(number).st_mode
    if stat.S_ISREG(kind):
        return open(number, "rb")
    os.close(number)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise NotAFileError(errno.ENXIO, NOT_A_FILE, path)


def why_unreadable(error: OSError) -> str:
    """Return what is wrong with one local file, or "" if others may fail for the same reason.

    Args:
        error: of reading the file.

    Returns:
        "permission denied", "not a file but a pipe, a socket or a device", "a folder", "a link that
        leads nowhere" or "a link that leads in a circle".
    """
    if isinstance(error, NotAFileError):
        return NOT_A_FILE
    if isinstance(error, PermissionError) and error.filename:
        return "permission denied"
    if isinstance(error, IsADirectoryError):
        return "a folder"
    if error.errno == errno.ELOOP:
        return "a link that leads in a circle"
    gone = isinstance(error, FileNotFoundError | NotADirectoryError) and error.filename
    return "a link that leads nowhere" if gone and os.path.islink(gone) else ""


def blocks(location: str) -> Iterator[bytes]:
    """Yield a file's bytes in order, so that no more than :data:`BLOCK_BYTES` are held.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if an object store goes on failing.
    """
    offset = 0
    while block := read(location, offset, BLOCK_BYTES):
        yield block
        offset += len(block)


@contextmanager
def open_binary(location: str) -> Iterator[BinaryIO]:
    """Open a file to read it once from its start; files of object stores are read in blocks.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if an object store goes on failing.
    """
    if not is_remote(location):
        with _open_local(location) as file:
            yield file
        return
    if not exists(location):
        raise FileNotFoundError(location)
    yield cast(BinaryIO, _Blocks(location))


def open_seekable(location: str, buffer_bytes: int = BUFFER_BYTES) -> BinaryIO:
    """Open a file for random access; ranges of objects are read in blocks, with retries.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if an object store goes on failing.
    """
    if not is_remote(location):
        return _open_local(location)
    return cast(BinaryIO, io.BufferedReader(_Ranges(location), buffer_bytes))


class _Ranges(object_store.Ranges):
    """An object's bytes by ranges; it is opened again after a failure."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._file: Any = None
        super().__init__(retry(lambda: self._opened().size()))

    def _opened(self) -> Any:
        if self._file is None:
            system, path = filesystem(self._location)
            self._file = system.open_input_file(path)
        return self._file

    def readinto(self, buffer: Any) -> int:
        data = retry(lambda: self._range(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _range(self, size: int) -> bytes:
        wanted = max(0, min(size, self._size - self._position))
        try:
            data: bytes = self._opened().read_at(wanted, self._position) if wanted else b""
        except OSError:
            self._file = None
            raise
        if len(data) != wanted:
            raise OSError(f"{self._location} ended after {len(data)} of {wanted} bytes")
        return data


class _Blocks:
    """An object's bytes in order, with at most one block in memory."""

    def __init__(self, location: str) -> None:
        self.blocks, self.rest = blocks(location), b""

    def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, fewer at the end; all remaining ones if negative."""
        while size < 0 or len(self.rest) < size:
            block = next(self.blocks, b"")
            if not block:
                size = len(self.rest)
            self.rest += block
        found, self.rest = self.rest[:size], self.rest[size:]
        return found


def digest_of(location: str) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    for block in blocks(location):
        digest.update(block)
    return digest.hexdigest()


def retry(
    ask: Callable[[], T],
    attempts: int = STORE_ATTEMPTS,
    on_failure: Callable[[Exception], None] | None = None,
) -> T:
    """Retry a store's operation, with backoff up to :data:`LONGEST_PAUSE_S`.

    This is the one policy for every call: a store that is away for half a minute, random 503s and
    broken responses only cost time. What another attempt does not change is raised at once.

    Args:
        ask: the operation, which may run several times.
        attempts: maximum number of attempts.
        on_failure: called with each error before the last.
    """
    for attempt in range(attempts - 1):
        try:
            return ask()
        except (OSError, pa.ArrowInvalid) as error:
            lasting = isinstance(error, FileNotFoundError | PermissionError)
            lasting = lasting or _REFUSED.search(str(error)) is not None
            if lasting or getattr(error, "errno", None) in LASTING:
                raise
            if on_failure is not None:
                on_failure(error)
            time.sleep(min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S))
    return ask()


def _read_object(location: str, offset: int, size: int | None) -> bytes:
    system, path = filesystem(location)
    with system.open_input_file(path) as stream:
        there = max(0, stream.size() - offset)
        wanted = there if size is None else min(size, there)
        data: bytes = stream.read_at(wanted, offset)
    if len(data) != wanted:
        raise OSError(f"{location} ended after {len(data)} of {wanted} bytes")
    return data


def write(location: str, data: bytes) -> None:
    """Write a file atomically: under another name first, then renamed."""
    if is_remote(location):
        retry(lambda: _write_object(location, data))
        return
    final = Path(absolute(location))
    final.parent.mkdir(parents=True, exist_ok=True)
    with temporary_file(final) as aside:
        with open(aside, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, final)


def append(location: str, data: bytes) -> None:
    """Append to a local file, which is made if it does not exist; at an address, write it whole.

    A process that is killed meanwhile leaves a part of the data at the file's end.
    """
    if is_remote(location):
        write(location, data)
        return
    final = Path(absolute(location))
    final.parent.mkdir(parents=True, exist_ok=True)
    with open(final, "ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _write_object(location: str, data: bytes) -> None:
    system, path = filesystem(location)
    with system.open_output_stream(path, compression=None) as stream:
        stream.write(data)


def table_of(data: bytes) -> pa.Table:
    """Return the table in the bytes of a Parquet file, read on this thread alone.

    Arrow's own threads may outlive the read, and the interpreter.

    Raises:
        pyarrow.ArrowInvalid: if it is not a Parquet file, or damaged.
    """
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


def upload(source: Path, location: str) -> None:
    """Copy a local file to a location atomically."""
    if is_remote(location):
        retry(lambda: _upload_object(source, location))
        return
    final = Path(absolute(location))
    final.parent.mkdir(parents=True, exist_ok=True)
    with temporary_file(final) as aside:
        shutil.copyfile(source, aside)
        os.replace(aside, final)


def _upload_object(source: Path, location: str) -> None:
    """Send a file in blocks; Arrow's own copy passes over an upload that the store does not end."""
    system, path = filesystem(location)
    with open(source, "rb") as file, system.open_output_stream(path, compression=None) as stream:
        while block := file.read(BLOCK_BYTES):
            stream.write(block)


def make_folder(location: str) -> None:
    """Make a local folder with its parents; addresses need none."""
    if not is_remote(location):
        Path(absolute(location)).mkdir(parents=True, exist_ok=True)


def remove(location: str) -> None:
    """Delete a file or a folder with its contents; do nothing if it does not exist."""
    _asked(location, lambda: _remove(location))


def _remove(location: str) -> None:
    system, path = filesystem(location)
    kind = system.get_file_info(path).type
    if kind == fs.FileType.Directory:
        system.delete_dir(path)
    elif kind == fs.FileType.File:
        system.delete_file(path)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
