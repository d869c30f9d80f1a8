"""Files on a disk or objects in S3: list in order, read a range."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from infill.pipeline import object_store, storage
from infill.pipeline.errors import UserError, printable
from infill.pipeline.sources.original import is_visible

TAKEN_ONCE = "link to a folder that holds it, whose files are taken once"
LEADS = {errno.ELOOP: "in a circle", errno.EACCES: "to what is not readable"}
"""Where a link leads, by the error of following it."""


@dataclass(frozen=True, kw_only=True)
class S3Config:
    """The S3 service behind s3:// addresses; credentials come from AWS's usual chain."""

    endpoint: str | None = None
    """Address of the service, such as http://minio:9000. None uses AWS_ENDPOINT_URL, or else
    AWS."""

    def use(self) -> None:
        """Use the service for every s3:// address of this process, in boto3 and in Arrow."""
        if self.endpoint is not None:
            os.environ["AWS_ENDPOINT_URL"] = self.endpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file of a store."""

    path: str
    """Printable path, relative to the store; bytes that are not UTF-8 are written as ``\\xe9``."""
    file: bytes
    """The path's bytes, to read the file again."""
    size: int = 0
    """Size in bytes; 0 if it was not requested, or cannot be read."""
    fault: str = ""
    """What it is in place of a file that can be read, such as "link that leads nowhere"."""


class Store(Protocol):
    """A tree of files."""

    def files(self, under: str = "") -> Iterator[StoredFile]:
        """Yield all visible files below a folder of the store, ordered by path.

        Names at which there is nothing to read are among them, with their fault.

        Raises:
            UserError: if the source cannot be listed.
        """
        ...

    def read(self, file: bytes, offset: int | None = None, size: int | None = None) -> bytes:
        """Return a file's bytes, or ``size`` of them (fewer at its end) from ``offset``."""
        ...

    def open(self, file: bytes) -> BinaryIO:
        """Open a file for random access."""
        ...

    def has(self, path: str) -> bool:
        """Return whether a file, or a folder that is not empty, exists."""
        ...


def open_store(location: str) -> Store:
    """Return the store at a path or s3:// prefix.

    Raises:
        UserError: if the location is an unsupported address.
    """
    if location.startswith("s3://"):
        return S3Store(location)
    if storage.is_remote(location):
        raise UserError(f"cannot read photographs from {location}; give a path or s3://bucket/...")
    return LocalStore(Path(storage.absolute(location)))


@dataclass(frozen=True)
class LocalStore:
    """A local folder that every worker sees."""

    root: Path

    def files(self, under: str = "") -> Iterator[StoredFile]:
        """Yield files by path; links to folders are followed, except in circles."""
        top = self.root / under
        if not top.is_dir():
            what = "is a file" if top.exists() else "does not exist"
            raise UserError(
                f"the source folder {top} {what}; give a folder of photographs, or one .zip, .tar, "
                ".csv or .parquet"
            )
        try:
            yield from self._walk(f"{under}/" if under else "", (os.path.realpath(top),))
        except PermissionError as error:
            raise UserError(
                f"the folder {error.filename} is not readable; change its permissions"
            ) from error

    def _walk(self, folder: str, above: tuple[str, ...]) -> Iterator[StoredFile]:
        """Yield files under a folder, sorted as whole paths are: "a-b" before "a/b"."""
        with os.scandir(self.root / folder) as found:
            entries = sorted((e.name + "/" * _is_folder(e), e) for e in found)
        for name, entry in entries:
            path = folder + name
            if not name.endswith("/"):
                if is_visible(name):
                    yield _stored(path, *_size_and_fault(entry))
                continue
            real = os.path.realpath(entry.path)
            if not is_visible(f"{name}any"):
                continue
            if real in above:
                yield _stored(path.rstrip("/"), 0, TAKEN_ONCE)
            else:
                yield from self._walk(path, (*above, real))

    def read(self, file: bytes, offset: int | None = None, size: int | None = None) -> bytes:
        """Return a file's bytes, or a range of them."""
        with self.open(file) as stream:
            if offset is not None:
                stream.seek(offset)
            return stream.read(-1 if size is None else size)

    def open(self, file: bytes) -> BinaryIO:
        """Open a file.

        Raises:
            OSError: also if it is a pipe, a socket or a device, which is not waited for.
        """
        return storage.open_seekable(str(self.root / os.fsdecode(file)))

    def has(self, path: str) -> bool:
        """Return whether a file or folder exists."""
        return (self.root / path).exists()


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link in a circle, or to what is not readable.
        return False


def _size_and_fault(entry: "os.DirEntry[str]") -> tuple[int, str]:
    """Return the size of a file in bytes; of anything else 0, and what it is."""
    try:
        found = entry.stat()
    except OSError as error:
        if not entry.is_symlink():
            raise
        return 0, f"link that leads {LEADS.get(error.errno or 0, 'nowhere')}"
    return (found.st_size, "") if stat.S_ISREG(found.st_mode) else (0, storage.NOT_A_FILE)


def _stored(path: str, size: int, fault: str) -> StoredFile:
    file = os.fsencode(path)
    shown = file.decode("utf-8", "backslashreplace")
    return StoredFile(path=shown, file=file, size=size, fault=fault)


def count_lost_folder(found: StoredFile, counts: Counter[str]) -> None:
    """Count a link that is not followed, by name, if it may have been meant as a folder.

    One with the name of an image is listed as an image, which then cannot be read.
    """
    name = found.path.rpartition("/")[2]
    if found.fault.startswith("link") and "." not in name:
        counts[f"{found.fault}: {printable(found.path)}"] += 1


class S3Store:
    """The objects under an s3:// prefix; failed requests are retried with backoff."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        bucket, _, prefix = self.location.removeprefix("s3://").partition("/")
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.root = storage.filesystem(self.location)[1]

    def files(self, under: str = "") -> Iterator[StoredFile]:
        """Yield objects by path: S3 lists in that order, a page at a time."""
        prefix = self.prefix + (f"{under}/" if under else "")
        last = ""
        while True:
            try:
                page = storage.retry(lambda after=last: self._page(prefix, after))  # type: ignore[misc]
            except OSError as error:
                raise UserError(
                    f"cannot list {self.location}: {error}; check the bucket, the credentials and "
                    "AWS_ENDPOINT_URL"
                ) from error
            for item in page.get("Contents", []):
                last = item["Key"]
                path = last[len(self.prefix) :]
                if is_visible(path) and not path.endswith("/"):
                    yield StoredFile(path=path, file=path.encode(), size=item["Size"])
            if not page.get("IsTruncated"):
                return

    def _page(self, prefix: str, last: str) -> dict[str, Any]:
        """Return a page of the listing, after a key.

        Raises:
            OSError: if the store fails; PermissionError for an answer that will not change.
        """
        more = {"StartAfter": last} if last else {}
        with object_store.as_os_errors():
            found: dict[str, Any] = object_store.client().list_objects_v2(
                Bucket=self.bucket, Prefix=prefix, **more
            )
        return found

    def read(self, file: bytes, offset: int | None = None, size: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them."""
        return storage.read(f"s3://{self.root}/{file.decode()}", offset or 0, size)

    def open(self, file: bytes) -> BinaryIO:
        """Open an object; small reads are served from blocks of a megabyte."""
        return storage.open_seekable(f"s3://{self.root}/{file.decode()}")

    def has(self, path: str) -> bool:
        """Return whether an object, or one below it, exists."""
        return storage.exists(f"s3://{self.root}/{path}")
