import hashlib

import pytest

from pipeline import storage
from pipeline.config import UserError


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """Return a location on disk, then one on a real S3 server."""
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")


def test_bytes_come_back_from_where_they_were_written(place):
    location = storage.join(place, "a", "b.bin")
    assert not storage.exists(location)
    storage.write(location, b"one")
    storage.write(location, b"two")
    assert storage.read(location) == b"two"
    assert storage.names(storage.join(place, "a")) == ["b.bin"]
    storage.remove(storage.join(place, "a"))
    assert not storage.exists(location)
    assert storage.names(storage.join(place, "a")) == []


def test_upload_copies_a_file(place, tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"content")
    storage.upload(source, storage.join(place, "up", "copy.bin"))
    assert storage.read(storage.join(place, "up", "copy.bin")) == b"content"


def test_reading_what_is_not_there_says_so(place):
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(place, "nothing"))
    storage.remove(storage.join(place, "nothing"))


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch):
    location = str(tmp_path / "kept.bin")
    storage.write(location, b"old")

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        storage.write(location, b"new")
    assert storage.read(location) == b"old"
    assert storage.names(str(tmp_path)) == ["kept.bin"]


def test_fetch_proves_the_checksum_and_keeps_a_download(bucket, tmp_path):
    data = b"weights"
    checksum = hashlib.sha256(data).hexdigest()
    location = storage.join(bucket, "weights.pth")
    storage.write(location, data)
    kept = storage.fetch(location, checksum, cache=tmp_path)
    assert kept.read_bytes() == data
    storage.remove(location)
    assert storage.fetch(location, checksum, cache=tmp_path) == kept


def test_fetch_refuses_a_wrong_or_missing_checksum(bucket, tmp_path):
    location = storage.join(bucket, "other.pth")
    storage.write(location, b"tampered")
    with pytest.raises(UserError, match="expected 0000"):
        storage.fetch(location, "0" * 64, cache=tmp_path)
    assert not list(tmp_path.rglob("other.pth"))
    with pytest.raises(UserError, match="give its SHA-256"):
        storage.fetch("https://example.org/weights.pth", None, cache=tmp_path)
    with pytest.raises(UserError, match="there is no file"):
        storage.fetch(str(tmp_path / "missing.pth"), None)


def test_an_unknown_kind_of_address_is_refused():
    with pytest.raises(UserError, match="give a path or s3://"):
        storage.exists("gopher://old/place")
