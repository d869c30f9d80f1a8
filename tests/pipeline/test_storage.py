import datetime
import errno
import functools
import hashlib
import http.client
import http.server
import random
import ssl
import threading

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.sources import open_source


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


class Failing(http.server.BaseHTTPRequestHandler):
    """Forwards to a store, and answers 503 to the next ``away`` requests, or at random."""

    upstream = ""
    away: int = 0
    share: float = 0.0
    rng: random.Random

    def answer(self) -> None:
        """Fail, or forward."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Failing.away -= 1
        if Failing.away >= 0 or self.rng.random() < self.share:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        link = http.client.HTTPConnection(self.upstream, timeout=30)
        link.request(self.command, self.path, body, dict(self.headers))
        response = link.getresponse()
        data = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        link.close()

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def failing(bucket, s3_server, monkeypatch):
    """Put a failing store before the real one; return its handler."""
    Failing.upstream = s3_server["AWS_ENDPOINT_URL"].removeprefix("http://")
    Failing.rng = random.Random(4)
    Failing.away, Failing.share = 0, 0.0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(storage, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # of boto3
    yield Failing
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_no_call_ends_while_a_store_fails(failing, bucket, tmp_path, monkeypatch, share):
    """Away for all attempts but the last at each kind of call, then 503s at random."""
    if not share:
        monkeypatch.setattr(storage, "S3_ATTEMPTS", 1)
    failing.share = share
    (tmp_path / "up").write_bytes(b"up")
    location, other = storage.join(bucket, "a.jpg"), storage.join(bucket, "up")
    source = open_source("folder", bucket)
    calls = {
        "write": lambda: storage.write(location, b"data"),
        "exists": lambda: storage.exists(location),
        "read": lambda: storage.read(location),
        "upload": lambda: storage.upload(tmp_path / "up", other),
        "names": lambda: storage.names(bucket),
        "list": lambda: [source.read(found) for found in source.originals()],
        "bucket": lambda: storage.require_bucket(bucket),
        "remove": lambda: storage.remove(other),
    }
    found = {}
    for name, call in calls.items():
        failing.away = 0 if share else storage.STORE_ATTEMPTS - 1
        found[name] = call()
    assert (found["exists"], found["read"], found["list"]) == (True, b"data", [b"data"])
    assert found["names"] == ["a.jpg", "up"]
    assert storage.names(bucket) == ["a.jpg"]


def test_pauses_outlast_a_store_that_is_away_for_half_a_minute():
    pauses = [0.2 * 2**n for n in range(storage.STORE_ATTEMPTS - 1)]
    assert storage.FIRST_PAUSE_S == 0.2
    assert sum(min(pause, storage.LONGEST_PAUSE_S) for pause in pauses) > 30


def test_missing_buckets_and_wrong_keys_are_errors_at_once(bucket, monkeypatch):
    monkeypatch.setattr(storage.time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(UserError, match=r"no bucket 'nobody-has-this'.*create it"):
        storage.require_bucket("s3://nobody-has-this/out")
    storage.require_bucket(bucket)
    with pytest.raises(UserError, match="cannot list s3://nobody-has-this"):
        list(open_source("folder", "s3://nobody-has-this/in").originals())


def test_keys_with_empty_parts_are_read(bucket):
    name = bucket.removeprefix("s3://").partition("/")[0]
    boto3.client("s3").put_object(Bucket=name, Key="set/a//b.jpg", Body=b"content")
    source = open_source("folder", bucket)
    [found] = source.originals()
    assert (found.path, source.read(found)) == ("a//b.jpg", b"content")


def test_checksum_trailers_are_for_aws_alone(monkeypatch):
    for name in storage.CHECKSUM_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    storage.use_plain_checksums()
    assert not set(storage.CHECKSUM_SETTINGS) & set(storage.os.environ)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    monkeypatch.setenv(storage.CHECKSUM_SETTINGS[0], "when_supported")
    storage.use_plain_checksums()
    assert [storage.os.environ[name] for name in storage.CHECKSUM_SETTINGS] == [
        "when_supported",
        "when_required",
    ]
