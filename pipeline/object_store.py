"""The clients of the S3 service behind s3:// addresses.

Arrow's client reads and writes almost every object. It refuses or rewrites keys with empty or
dotted parts, such as ``a//b``, which are legal: those are read and written by boto3.
"""

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pyarrow as pa
from pyarrow import fs

from infill.pipeline.store_endpoint import endpoint, require_first_answer

S3_ATTEMPTS = 3
"""Number of attempts of a failing request by the store's client itself, within one of ours."""
HELD_BYTES = 2**26
"""Bytes of an object being written that are held in memory; larger ones go to a temporary file."""


def filesystem(path: str) -> fs.FileSystem:
    """Return the filesystem for ``bucket/key``.

    Raises:
        UserError: if this is the first contact, and nobody answers at the endpoint.
    """
    require_first_answer()
    bucket = path.partition("/")[0]
    if {"", ".", ".."} & set(path.split("/")[1:]):
        return fs.PyFileSystem(ExactKeys())
    settings = tuple(sorted(item for item in os.environ.items() if item[0][:4] == "AWS_"))
    return _arrow_store(bucket, settings)


@lru_cache(maxsize=16)
def _arrow_store(bucket: str, settings: tuple[tuple[str, str], ...]) -> fs.FileSystem:
    """Return Arrow's client for a bucket, cached per bucket, as finding its region is a request.

    Args:
        bucket: name of the bucket.
        settings: settings of the environment, most of which the store reads by itself.
    """
    found, _ = fs.FileSystem.from_uri(f"s3://{bucket}")
    address = endpoint()[1]
    return fs.S3FileSystem(
        region=found.region,
        endpoint_override=address or None,
        scheme="http" if address.startswith("http://") else "https",
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Raise boto3's errors as Arrow's client does.

    Raises:
        FileNotFoundError: for an object that does not exist.
        PermissionError: for an answer that does not change, as of wrong keys.
        OSError: for any other failure.
    """
    import botocore.exceptions as boto

    try:
        yield
    except boto.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        code = error.response.get("Error", {}).get("Code", "")
        if status == 404 and code in ("404", "NoSuchKey", "NotFound"):
            raise FileNotFoundError(str(error)) from error
        lasting = 400 <= status < 500 and status not in (408, 429)
        raise (PermissionError if lasting else OSError)(f"AWS Error: {error}") from error
    except boto.HTTPClientError as error:
        raise OSError(f"AWS Error: {error}") from error
    except boto.BotoCoreError as error:
        raise PermissionError(f"AWS Error: {error}") from error


def client() -> Any:
    """Return boto3's client for the endpoint of the environment."""
    import boto3

    return boto3.client("s3")


class ExactKeys(fs.FileSystemHandler):
    """Objects by their exact keys, for Arrow; paths are ``bucket/key``."""

    def __init__(self) -> None:
        self._client = client()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExactKeys)

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        """Return the name of this kind."""
        return "s3-exact"

    def normalize_path(self, path: str) -> str:
        """Return the path as it is."""
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Return what is known of each path."""
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> fs.FileInfo:
        with as_os_errors():
            try:
                with as_os_errors():
                    found = self._client.head_object(**_where(path))
            except FileNotFoundError:
                kind = fs.FileType.Directory if self._below(path) else fs.FileType.NotFound
                return fs.FileInfo(path, kind)
        return fs.FileInfo(
            path, fs.FileType.File, size=found["ContentLength"], mtime=found["LastModified"]
        )

    def _below(self, path: str, recursive: bool = True) -> list[fs.FileInfo]:
        """Return the objects below a path, and its folders unless they are walked into."""
        bucket, key = _where(path).values()
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{key}/"}
        if not recursive:
            asked["Delimiter"] = "/"
        infos = []
        with as_os_errors():
            for page in self._client.get_paginator("list_objects_v2").paginate(**asked):
                for item in page.get("Contents", []):
                    file = f"{bucket}/{item['Key']}"
                    infos.append(fs.FileInfo(file, fs.FileType.File, size=item["Size"]))
                for item in page.get("CommonPrefixes", []):
                    folder = f"{bucket}/{item['Prefix'].removesuffix('/')}"
                    infos.append(fs.FileInfo(folder, fs.FileType.Directory))
        return infos

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """Return what lies in a folder."""
        found = self._below(selector.base_dir, selector.recursive)
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        return found

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Open an object for random access."""
        info = self._info(path)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(path)
        return pa.PythonFile(io.BufferedReader(_Object(self._client, path, info.size), 2**20), "r")

    def open_input_stream(self, path: str) -> pa.PythonFile:
        """Open an object to read it from its start."""
        return self.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        """Open a file that becomes the object when it is closed."""
        return pa.PythonFile(_Upload(self._client, path), "w")

    def delete_file(self, path: str) -> None:
        """Delete an object."""
        with as_os_errors():
            self._client.delete_object(**_where(path))

    def delete_dir(self, path: str) -> None:
        """Delete every object below a path."""
        for info in self._below(path):
            self.delete_file(info.path)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: keys need no folders."""

    def _refused(self, *_: Any) -> Any:
        raise io.UnsupportedOperation("objects are read, written and deleted, and nothing else")

    delete_dir_contents = delete_root_dir_contents = move = copy_file = _refused
    open_append_stream = _refused


def _where(path: str) -> dict[str, str]:
    bucket, _, key = path.partition("/")
    return {"Bucket": bucket, "Key": key}


class Ranges(io.RawIOBase):
    """A file of a known size that is read by ranges: its position, for those that read one."""

    def __init__(self, size: int) -> None:
        self._size, self._position = size, 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position in bytes from the start, the position or the end; return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position


class _Object(Ranges):
    """An object's bytes by ranges."""

    def __init__(self, client: Any, path: str, size: int) -> None:
        super().__init__(size)
        self._client, self._path = client, path

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        with as_os_errors():
            found = self._client.get_object(
                **_where(self._path), Range=f"bytes={self._position}-{end - 1}"
            )
            data: bytes = found["Body"].read()
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Upload(io.RawIOBase):
    """Bytes that become an object when the file is closed."""

    def __init__(self, client: Any, path: str) -> None:
        self._client, self._path = client, path
        self._held = tempfile.SpooledTemporaryFile(HELD_BYTES)  # noqa: SIM115 - closed by close

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._held.write(data)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        with self._held, as_os_errors():
            self._held.seek(0)
            self._client.put_object(**_where(self._path), Body=self._held)
