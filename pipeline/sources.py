"""Where originals lie: a folder, an s3:// prefix, the photographs that installed packages carry.

A source lists its originals in one order that never depends on the machine (by relative path) and
reads any one of them again by what the listing says. Only the listing is made on the driver; the
bytes are read wherever a shard is written.
"""

import importlib.util
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline import storage
from pipeline.config import UserError

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

BUNDLED = {
    "skimage/data/astronaut.png": "train",
    "skimage/data/brick.png": "val",
    "skimage/data/camera.png": "train",
    "skimage/data/chelsea.png": "test",
    "skimage/data/clock_motion.png": "train",
    "skimage/data/coffee.png": "val",
    "skimage/data/coins.png": "test",
    "skimage/data/grass.png": "train",
    "skimage/data/gravel.png": "train",
    "skimage/data/hubble_deep_field.jpg": "train",
    "skimage/data/moon.png": "train",
    # motorcycle_right.png shows the same scene to the other eye: taking both could leak.
    "skimage/data/motorcycle_left.png": "train",
    "skimage/data/rocket.jpg": "test",
    "sklearn/datasets/images/china.jpg": "train",
    "sklearn/datasets/images/flower.jpg": "test",
}
"""Photographs carried by scikit-image and scikit-learn, each with its split."""

READ_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """One photograph of a source, as its listing describes it."""

    path: str
    """Its name for people: relative to the source, with ``/`` between parts."""
    size: int
    """Of its encoded bytes."""
    file: bytes
    """Where it lies, relative to the source; bytes, because names on disk need not be UTF-8."""
    split: str | None = None
    """"train", "val" or "test" where the source itself says so."""


class Source(Protocol):
    """A place that lists originals and reads them; cheap to open, on any machine."""

    def originals(self) -> Iterator[Original]:
        """Yield every original once, ordered by path.

        Raises:
            UserError: if the place is missing.
        """
        ...

    def read(self, file: bytes) -> bytes:
        """Return the encoded bytes of an original by its ``file``.

        Raises:
            FileNotFoundError: if it is no longer there.
            PermissionError: if it must not be read.
        """
        ...


def open_source(kind: str, location: str) -> Source:
    """Return a source by its kind.

    Args:
        kind: "folder" or "bundled".
        location: a path or s3:// prefix for a folder; not used for "bundled".

    Raises:
        UserError: if the kind is unknown or the location is missing or impossible.
    """
    if kind == "bundled":
        return BundledSource()
    if kind != "folder":
        raise UserError(f"there is no source {kind!r}; the sources are folder and bundled")
    if not location:
        raise UserError("the source is empty: give the folder of photographs with --source DIR")
    if location.startswith("s3://"):
        return S3Source(location)
    if storage.is_remote(location):
        raise UserError(f"cannot read photographs from {location}; give a path or s3://bucket/...")
    return FolderSource(Path(storage.absolute(location)))


def is_picture_name(path: str) -> bool:
    """Tell whether a relative path counts as a picture.

    Hidden files and folders do not, nor do files being written (``_tmp-...``) and folders that
    start with ``_`` (such as ``__MACOSX``). A file that starts with ``_`` does: cameras write
    ``_DSC0001.JPG``.
    """
    *folders, name = path.split("/")
    if any(folder.startswith((".", "_")) for folder in folders):
        return False
    return name.lower().endswith(SUFFIXES) and not name.startswith((".", "_tmp-"))


def split_of(path: str) -> str | None:
    """Return the split named by a path's first folder, or None."""
    first, slash, _ = path.partition("/")
    return first if slash and first in SPLITS else None


@dataclass(frozen=True)
class FolderSource:
    """A tree of picture files on a disk that every worker sees."""

    root: Path

    def originals(self) -> Iterator[Original]:
        """Yield the tree's pictures by path; linked folders are followed, but not in circles.

        Raises:
            UserError: if the folder is missing or must not be listed.
        """
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise UserError(f"the source folder {self.root} {what}; give a folder of photographs")
        try:
            yield from self._walk("", (os.path.realpath(self.root),))
        except PermissionError as error:
            raise UserError(f"the folder {error.filename} must not be read; allow it") from error

    def _walk(self, folder: str, above: tuple[str, ...]) -> Iterator[Original]:
        """Yield pictures under a folder, sorted as whole paths are: "a-b" before "a/b"."""
        with os.scandir(self.root / folder) as found:
            entries = sorted((e.name + "/" * e.is_dir(), e) for e in found)
        for name, entry in entries:
            path = folder + name
            if name.endswith("/"):
                real = os.path.realpath(entry.path)
                if not name.startswith((".", "_")) and real not in above:
                    yield from self._walk(path, (*above, real))
            elif is_picture_name(path) and entry.is_file():
                yield Original(
                    path=os.fsencode(path).decode("utf-8", "backslashreplace"),
                    size=entry.stat().st_size,
                    file=os.fsencode(path),
                    split=split_of(path),
                )

    def read(self, file: bytes) -> bytes:
        """Return a file's bytes."""
        return (self.root / os.fsdecode(file)).read_bytes()


class S3Source:
    """All picture objects under an s3:// prefix."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        bucket, _, prefix = self.location.removeprefix("s3://").partition("/")
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.filesystem, self.root = storage.filesystem(self.location)

    def originals(self) -> Iterator[Original]:
        """Yield the prefix's pictures by path: S3 lists in that order, a page at a time.

        Raises:
            UserError: if the bucket cannot be listed.
        """
        import boto3
        import botocore.exceptions

        client = boto3.client("s3")
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix
        )
        try:
            for page in pages:
                yield from self._originals(page.get("Contents", []))
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise UserError(
                f"cannot list {self.location}: {error}; check the bucket, the credentials and "
                "AWS_ENDPOINT_URL"
            ) from error

    def _originals(self, contents: list[dict[str, object]]) -> Iterator[Original]:
        for item in contents:
            path = str(item["Key"])[len(self.prefix) :]
            if is_picture_name(path):
                size = int(str(item["Size"]))
                yield Original(path=path, size=size, file=path.encode(), split=split_of(path))

    def read(self, file: bytes) -> bytes:
        """Return an object's bytes, asking again with longer and longer pauses on failure."""
        for attempt in range(READ_ATTEMPTS):
            try:
                with self.filesystem.open_input_stream(f"{self.root}/{file.decode()}") as stream:
                    data: bytes = stream.read()
                return data
            except (FileNotFoundError, PermissionError):
                raise
            except OSError:
                if attempt + 1 == READ_ATTEMPTS:
                    raise
                time.sleep(0.2 * 2**attempt)
        raise AssertionError("every attempt returns or raises")


class BundledSource:
    """The photographs that scikit-image and scikit-learn carry, found on each machine anew."""

    def originals(self) -> Iterator[Original]:
        """Yield the photographs of :data:`BUNDLED`.

        Raises:
            UserError: if a package, or one of its photographs, is missing.
        """
        for file, split in sorted(BUNDLED.items()):
            path = self._find(file)
            if not path.is_file():
                raise UserError(f"{path} is missing; reinstall with `pip install infill[demo]`")
            size = path.stat().st_size
            yield Original(path=_short(file), size=size, file=file.encode(), split=split)

    def _find(self, file: str) -> Path:
        package, _, inside = file.partition("/")
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise UserError(
                f"the bundled photographs need {package}, which is not installed: "
                "`pip install infill[demo]`"
            )
        return Path(found.submodule_search_locations[0]) / inside

    def read(self, file: bytes) -> bytes:
        """Return a photograph's bytes."""
        return self._find(file.decode()).read_bytes()


def _short(file: str) -> str:
    """Name a bundled photograph by package and file alone."""
    package, *_, name = file.split("/")
    return f"{package}/{name}"
