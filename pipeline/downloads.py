"""Files of others, such as published weights, at a path or an address, checked by their SHA-256."""

import urllib.request
from pathlib import Path

from infill.pipeline import storage
from infill.pipeline.errors import UserError

MAX_DOWNLOAD_BYTES = 4 * 2**30
"""Maximum size of a file over https://; published files of weights are smaller."""


def fetch(location: str, checksum: str | None, cache: Path | None = None) -> Path:
    """Return a local file for a path, s3:// or https:// location, checked against its SHA-256.

    Downloads are kept in ``cache`` under their checksum and are not fetched twice.

    Args:
        location: a path, ``s3://...`` or ``https://...``.
        checksum: 64 hexadecimal digits; may be None for a local path only.
        cache: folder for downloads; ``~/.cache/infill`` if None.

    Raises:
        UserError: if the file is missing, the checksum is absent for a download, or differs.
    """
    if not storage.is_remote(location):
        path = Path(storage.absolute(location))
        if not path.is_file():
            raise UserError(f"there is no file {path}")
        if checksum:
            _require_checksum(path.read_bytes(), checksum, location)
        return path
    if not checksum:
        raise UserError(f"{location} is a download: give its SHA-256 as well")
    checksum = checksum.lower()
    folder = cache or Path.home() / ".cache" / "infill"
    kept = folder / checksum / location.rstrip("/").rsplit("/", 1)[-1]
    if not kept.is_file():
        data = _download(location)
        _require_checksum(data, checksum, location)
        storage.write(str(kept), data)
    return kept


def _download(location: str) -> bytes:
    if location.startswith("s3://"):
        try:
            return storage.read(location)
        except FileNotFoundError as error:
            raise UserError(f"there is no object {location}") from error
    if not location.startswith("https://"):
        raise UserError(f"cannot fetch {location}: give a path, s3:// or https://")
    try:
        with urllib.request.urlopen(location, timeout=60) as answer:
            data: bytes = answer.read(MAX_DOWNLOAD_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot download {location}: {error}") from error
    if len(data) > MAX_DOWNLOAD_BYTES:
        limit = f"{MAX_DOWNLOAD_BYTES / 2**30:g} GiB"
        raise UserError(f"{location} is larger than {limit}: get it by hand and give its path")
    return data


def _require_checksum(data: bytes, checksum: str, location: str) -> None:
    found = storage.sha256(data)
    if found != checksum.lower():
        raise UserError(f"{location} has SHA-256 {found}, expected {checksum}; it is not used")
