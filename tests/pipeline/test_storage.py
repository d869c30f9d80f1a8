import datetime
import errno
import functools
import hashlib
import http.server
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infill.pipeline import storage
from infill.pipeline.errors import UserError


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


@pytest.fixture
def https(tmp_path, monkeypatch):
    """Serve a folder over https:// with a certificate of its own; return folder and address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    both = tmp_path / "localhost.pem"
    both.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(both))
    yield folder, f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_https_download_is_checked_kept_and_limited(https, tmp_path, monkeypatch):
    folder, address = https
    (folder / "weights.pth").write_bytes(b"weights")
    location, checksum = f"{address}/weights.pth", hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(UserError, match="expected 0000"):
        storage.fetch(location, "0" * 64, cache=tmp_path / "cache")
    monkeypatch.setattr(storage, "MAX_DOWNLOAD_BYTES", 6)
    with pytest.raises(UserError, match="is larger than"):
        storage.fetch(location, checksum, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    monkeypatch.undo()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
    kept = storage.fetch(location, checksum.upper(), cache=tmp_path / "cache")
    assert kept.read_bytes() == b"weights"
    (folder / "weights.pth").unlink()
    assert storage.fetch(location, checksum, cache=tmp_path / "cache") == kept
    with pytest.raises(UserError, match="cannot download"):
        storage.fetch(f"{address}/nothing.pth", "1" * 64, cache=tmp_path / "cache")


def test_https_without_a_trusted_certificate_is_refused(https, tmp_path, monkeypatch):
    folder, address = https
    (folder / "weights.pth").write_bytes(b"weights")
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match="certificate"):
        storage.fetch(f"{address}/weights.pth", "1" * 64, cache=tmp_path / "cache")


@pytest.mark.parametrize(("number", "asked"), [(errno.ENOSPC, 1), (errno.EROFS, 1), (errno.EIO, 3)])
def test_only_what_may_pass_is_waited_for(number, asked, monkeypatch):
    monkeypatch.setattr(storage, "FIRST_PAUSE_S", 0.0)
    calls, reported = [], []

    def ask():
        calls.append(1)
        raise OSError(number, "as the system says")

    with pytest.raises(OSError, match="as the system says"):
        storage.retry(ask, 3, reported.append)
    assert len(calls) == asked
    assert len(reported) == asked - 1
