"""Shards of the next windows are fetched while the current ones are read."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infill.pipeline.loading import BatchConfig, StatelessSampler
from infill.pipeline.loading.shard_prefetch import ShardPrefetcher
from infill.pipeline.loading.shard_reader import ShardCache
from infill.pipeline.manifest import read_manifest


@pytest.fixture
def store(shards: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[tuple[str, str]]]:
    """Serve the set's folder as a bucket; yield how often each object was asked for, by method."""
    asked: Counter[tuple[str, str]] = Counter()

    class Objects(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            name = self.path.partition("?")[0].rpartition("/")[2]
            asked[self.command, name] += 1
            data, status = (Path(shards) / name).read_bytes(), 200
            if ranged := self.headers.get("Range"):
                first, last = ranged.removeprefix("bytes=").split("-")
                data, status = data[int(first) : int(last) + 1], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Objects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
    }.items():
        monkeypatch.setenv(name, value)
    yield asked
    server.shutdown()
    server.server_close()


def test_a_shard_is_one_request_and_its_header(
    store: Counter[tuple[str, str]], shards: str, tmp_path: Path
) -> None:
    manifest = read_manifest(shards)
    cache = ShardCache(str(tmp_path), 10**9)
    [path] = [cache.path(f"s3://photos/set/{r.name}", r) for r in manifest.shards[:1]]
    assert path.read_bytes() == (Path(shards) / manifest.shards[0].name).read_bytes()
    name = manifest.shards[0].name
    assert {key: count for key, count in store.items() if key[1] == name} == {
        ("HEAD", name): 1,
        ("GET", name): 1,
    }


def test_the_next_window_is_there_before_its_first_sample_is_read(
    store: Counter[tuple[str, str]], shards: str, tmp_path: Path
) -> None:
    manifest = replace(read_manifest(shards), location="s3://photos/set")
    order = StatelessSampler(manifest.counts, 0, 1)
    cache = ShardCache(str(tmp_path), 10**9)
    ahead = ShardPrefetcher(manifest, cache, order, rank=0)
    [first] = order.windows(order.span(0, 1))
    ahead.enter(order.span(0, 1))
    ahead.pool.shutdown(wait=True)
    expected = order.shards(first) + order.shards(order.following(first))
    assert len(set(expected)) == 2
    assert cached(tmp_path) == {manifest.shards[shard].sha256 for shard in expected}


def test_batches_of_a_remote_set_fetch_each_shard_once(
    store: Counter[tuple[str, str]], shards: str, tmp_path: Path, take, assert_same
) -> None:
    config = BatchConfig(
        shards=shards,
        batch_size=2,
        image_size_px=32,
        shuffle_window_shards=1,
        shuffle_lanes=2,
        prefetch_batches=0,
    )
    remote = replace(config, shards="s3://photos/set", cache_folder=str(tmp_path))
    steps = len(read_manifest(shards)) // 2
    assert_same(take(remote, steps), take(config, steps))
    for record in read_manifest(shards).shards:
        assert store["GET", record.name] == 1


def test_a_fetch_that_fails_is_left_to_the_reader(
    store: Counter[tuple[str, str]], shards: str, tmp_path: Path
) -> None:
    manifest = replace(read_manifest(shards), location="s3://photos/set")
    wrong = [replace(record, sha256="0" * 64) for record in manifest.shards]
    order = StatelessSampler(manifest.counts, 0, 1)
    cache = ShardCache(str(tmp_path), 10**9)
    ahead = ShardPrefetcher(replace(manifest, shards=tuple(wrong)), cache, order, rank=1)
    ahead.enter(order.span(0, 1))
    ahead.pool.shutdown(wait=True)
    assert not cached(tmp_path)
    assert not list(tmp_path.glob("_tmp-*"))


def cached(folder: Path) -> set[str]:
    """Return the checksums of the shards in a cache."""
    return {path.stem for path in folder.glob("*.tar")}
