import datetime
import errno
import functools
import hashlib
import http.client
import http.server
import random
import socket
import ssl
import threading

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infill.pipeline import downloads, object_store, storage, store_endpoint
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


@pytest.mark.parametrize("name", ["a.gz", "a.tar.bz2", "a.zst"])
def test_bytes_are_written_as_they_are_whatever_their_name(place, tmp_path, name):
    (tmp_path / "source").write_bytes(b"content")
    for write in (lambda at: storage.write(at, b"content"), functools.partial(_upload, tmp_path)):
        write(storage.join(place, "names", name))
        assert storage.read(storage.join(place, "names", name)) == b"content"


def _upload(folder, location):
    storage.upload(folder / "source", location)


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
    kept = downloads.fetch(location, checksum, cache=tmp_path)
    assert kept.read_bytes() == data
    storage.remove(location)
    assert downloads.fetch(location, checksum, cache=tmp_path) == kept


def test_fetch_refuses_a_wrong_or_missing_checksum(bucket, tmp_path):
    location = storage.join(bucket, "other.pth")
    storage.write(location, b"tampered")
    with pytest.raises(UserError, match="expected 0000"):
        downloads.fetch(location, "0" * 64, cache=tmp_path)
    assert not list(tmp_path.rglob("other.pth"))
    with pytest.raises(UserError, match="give its SHA-256"):
        downloads.fetch("https://example.org/weights.pth", None, cache=tmp_path)
    with pytest.raises(UserError, match="there is no file"):
        downloads.fetch(str(tmp_path / "missing.pth"), None)


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
        downloads.fetch(location, "0" * 64, cache=tmp_path / "cache")
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD_BYTES", 6)
    with pytest.raises(UserError, match="is larger than"):
        downloads.fetch(location, checksum, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    monkeypatch.undo()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
    kept = downloads.fetch(location, checksum.upper(), cache=tmp_path / "cache")
    assert kept.read_bytes() == b"weights"
    (folder / "weights.pth").unlink()
    assert downloads.fetch(location, checksum, cache=tmp_path / "cache") == kept
    with pytest.raises(UserError, match="cannot download"):
        downloads.fetch(f"{address}/nothing.pth", "1" * 64, cache=tmp_path / "cache")


def test_https_without_a_trusted_certificate_is_refused(https, tmp_path, monkeypatch):
    folder, address = https
    (folder / "weights.pth").write_bytes(b"weights")
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match="certificate"):
        downloads.fetch(f"{address}/weights.pth", "1" * 64, cache=tmp_path / "cache")


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
    monkeypatch.setattr(object_store, "S3_ATTEMPTS", 1)
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
        "info": lambda: storage.info(location).size,
        "open": lambda: storage.open_seekable(location).read(),
        "list": lambda: [source.read(found) for found in source.originals()],
        "bucket": lambda: storage.require_bucket(bucket),
        "remove": lambda: storage.remove(other),
    }
    found = {}
    for name, call in calls.items():
        failing.away = 0 if share else storage.STORE_ATTEMPTS - 1
        found[name] = call()
    assert (found["exists"], found["read"], found["list"]) == (True, b"data", [b"data"])
    assert (found["info"], found["open"]) == (4, b"data")
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


ODD_KEYS = [
    "a//b.jpg",
    "/b.jpg",
    "./b.jpg",
    "a/../b.jpg",
    "a?b#c.jpg",
    "a%20b+c d.jpg",
    "ä/日本.jpg",
]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_is_written_listed_and_read_the_same(bucket, tmp_path, key):
    (tmp_path / "up").write_bytes(b"uploaded")
    name, location = bucket.removeprefix("s3://").partition("/")[0], f"{bucket}/{key}"
    assert not storage.exists(location)
    storage.write(location, b"content")
    [item] = boto3.client("s3").list_objects_v2(Bucket=name)["Contents"]
    assert item["Key"] == f"set/{key}"
    assert (storage.exists(location), storage.info(location).size) == (True, 7)
    with storage.open_binary(location) as file:
        assert (file.read(3), storage.read(location, 3, 2)) == (b"con", b"te")
    source = open_source("folder", bucket)
    if "./" not in key:  # a folder with a dot is hidden
        [found] = source.originals()
        assert (found.path, source.read(found)) == (key, b"content")
    storage.upload(tmp_path / "up", location)
    assert storage.open_seekable(location).read() == b"uploaded"
    storage.remove(location)
    assert not storage.exists(location)


def test_a_folder_whose_key_has_an_empty_part_is_listed_and_removed(bucket):
    for name in ("a.jpg", "deep/b.jpg"):
        storage.write(f"{bucket}//{name}", b"content")
    assert storage.names(f"{bucket}//deep") == ["b.jpg"]
    assert storage.exists(f"{bucket}//deep")
    source = open_source("folder", f"{bucket}//deep")
    assert [source.read(found) for found in source.originals()] == [b"content"]
    storage.remove(f"{bucket}//deep")
    assert not storage.exists(f"{bucket}//deep/b.jpg")
    with pytest.raises(FileNotFoundError):
        storage.read(f"{bucket}//deep/b.jpg")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://127.0.0.1:{closed}", "AWS_ENDPOINT_URL=.*refuses the connection.*correct"),
        ("http://no-such-host.invalid:9000", "AWS_ENDPOINT_URL=.*host name is not known"),
        ("minio:9000", "AWS_ENDPOINT_URL=minio:9000 is not an address.*http://minio:9000"),
    ],
)
def test_a_wrong_endpoint_is_refused_at_the_first_contact_alone(monkeypatch, address, sentence):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    for name in ("AWS_ENDPOINT_URL_S3", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address.format(closed=closed))
    monkeypatch.setattr(store_endpoint, "CONTACT_PAUSES_S", (0.0,))
    with pytest.raises(UserError, match=sentence), store_endpoint.first_contact():
        storage.filesystem("s3://photos/set")
    store_endpoint.require_first_answer()  # a worker waits instead


def test_a_store_that_comes_up_meanwhile_is_contacted(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"http://127.0.0.1:{server.getsockname()[1]}"
        failures = [ConnectionRefusedError()]
        connect = socket.create_connection

        def late(*arguments):
            if failures:
                raise failures.pop()
            return connect(*arguments)

        monkeypatch.setattr(store_endpoint.socket, "create_connection", late)
        monkeypatch.setattr(store_endpoint, "CONTACT_PAUSES_S", (0.0,))
        monkeypatch.setenv("AWS_ENDPOINT_URL", there)
        with store_endpoint.first_contact():
            store_endpoint.require_first_answer()
    assert not failures


def test_checksum_trailers_are_for_aws_alone(monkeypatch):
    for name in store_endpoint.CHECKSUM_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    store_endpoint.use_plain_checksums()
    assert not set(store_endpoint.CHECKSUM_SETTINGS) & set(storage.os.environ)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    monkeypatch.setenv(store_endpoint.CHECKSUM_SETTINGS[0], "when_supported")
    store_endpoint.use_plain_checksums()
    assert [storage.os.environ[name] for name in store_endpoint.CHECKSUM_SETTINGS] == [
        "when_supported",
        "when_required",
    ]
