"""Write tars whose bytes depend on their members alone, atomically.

Every member has mode 644, owner and group 0 and time 0, in the USTAR format; the end is padded to
10,240 bytes as ``tar`` does. ``tarfile``, ``webdataset`` and GNU tar read them.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from infill.pipeline import storage
from infill.pipeline.temporary_folders import temporary_file, temporary_folder


class TarWriter:
    """Appends members to a tar and keeps its size and SHA-256."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = 0
        self.checksum = hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Append a member and return the offset of its data.

        Args:
            name: at most 100 ASCII characters.
            data: content of the member.
        """
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def close(self) -> None:
        """Write the end of the archive; the stream stays open."""
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self.size + end) % tarfile.RECORDSIZE))

    def _write(self, data: bytes) -> None:
        self.stream.write(data)
        self.checksum.update(data)
        self.size += len(data)


@contextmanager
def written_whole(location: str) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when the block ends without an error.

    A local file is written beside its final name and flushed to the disk; an object is written to
    a local temporary file and sent when it is complete.
    """
    if storage.is_remote(location):
        with temporary_folder() as folder:
            aside = folder / "shard"
            with open(aside, "wb") as stream:
                yield stream
            storage.upload(aside, location)
        return
    final = Path(location)
    final.parent.mkdir(parents=True, exist_ok=True)
    with temporary_file(final) as aside:
        with open(aside, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, final)
