"""Decoding in processes that end with the request they work for."""

import asyncio
import base64
import os
import resource
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image, ImageFile

from infill.pipeline.errors import ImageError
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.inference.pair_files import InpaintOptions
from infill.pipeline.serving.http import decoders
from infill.pipeline.serving.http.decoders import DecoderPool, ReadTask
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.http.request_metrics import RequestMetrics
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.serving.node_counts import NodeCounts

LONG_S = 60
HEIGHT, WIDTH = 900, 1300
PIXELS = HEIGHT * WIDTH
TILING = TilingConfig(sides_px=(64, 128), least_crop_px=64)


@pytest.fixture
def task(make) -> ReadTask:
    assert PIXELS > decoders.SMALL_PIXELS
    return ReadTask(
        image=make.file(make.photograph(HEIGHT, WIDTH)),
        mask=make.file(make.hole(HEIGHT, WIDTH, slice(100, 300), slice(200, 500))),
        options=InpaintOptions(mode="tile"),
        max_pixels=2_000_000,
        tiling=TILING,
    )


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_process_reads_what_a_thread_reads(task):
    async def main():
        pool = DecoderPool(1)
        return await pool.read(task, PIXELS), await pool.read(task, 1), pool.processes()

    apart, here, processes = asyncio.run(main())
    assert len(processes) == 1
    np.testing.assert_array_equal(apart.image.pixels, here.image.pixels)
    np.testing.assert_array_equal(apart.hole, here.hole)
    assert (apart.layout, apart.image.format) == (here.layout, "png")
    assert len(apart.tiles) == len(here.tiles) > 1
    for one, other in zip(apart.tiles, here.tiles, strict=True):
        for got, wanted in zip(one, other, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_cancelled_task_ends_its_process_and_the_next_one_gets_another(task, wait_until):
    async def main():
        pool = DecoderPool(1)
        await pool.read(task, PIXELS)
        [process] = pool.processes()
        os.kill(process, signal.SIGSTOP)  # It would never answer.
        reading = asyncio.create_task(pool.read(task, PIXELS))
        while pool.processes():
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert gone(process)
        assert (await pool.read(task, PIXELS)).hole.any()
        return process, pool.processes()

    first, [second] = asyncio.run(main())
    assert second != first


def test_killed_process_costs_no_request(task):
    async def main():
        pool = DecoderPool(1)
        await pool.read(task, PIXELS)
        [process] = pool.processes()
        os.kill(process, signal.SIGKILL)
        return (await pool.read(task, PIXELS)).hole.any()

    assert asyncio.run(main())


def test_refused_file_keeps_its_process(task):
    damaged = ReadTask(**{**vars(task), "image": task.image[:5000]})

    async def main():
        pool = DecoderPool(1)
        with pytest.raises(ImageError, match="damaged"):
            await pool.read(damaged, PIXELS)
        [process] = pool.processes()
        await pool.read(task, PIXELS)
        assert pool.processes() == [process]

    asyncio.run(main())


def test_image_that_takes_more_memory_than_its_size_is_refused(task, make):
    large = replace(task, image=make.file(np.zeros((4000, 6000, 3), np.uint8)), max_pixels=10**8)

    async def main():
        pool = DecoderPool(1)
        await pool.read(task, PIXELS)
        [process] = pool.processes()
        most, hard = resource.prlimit(process, resource.RLIMIT_AS)
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
        now = pages * os.sysconf("SC_PAGE_SIZE")
        assert now < most < now + 2**30
        little = now + 40 * 2**20  # for an image of 72 MB
        resource.prlimit(process, resource.RLIMIT_AS, (little, hard))
        with pytest.raises(ImageError):
            await pool.read(large, PIXELS)
        assert pool.processes() == [process]

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/v1/inpaint", "/v1/images/edits"])
def test_caller_who_leaves_ends_the_work(serving, replica, request_of, wait_until, path):
    class Endless:
        def __init__(self) -> None:
            self.asked, self.ended = threading.Event(), threading.Event()

        async def describe(self):
            return []

        async def fill(self, *arguments):
            self.asked.set()
            try:
                await asyncio.sleep(10 * LONG_S)
            finally:
                self.ended.set()

    backend = Endless()
    request = httpx.Request("POST", f"http://x{path}", files={"image": transparent(request_of)})
    head = [f"POST {path} HTTP/1.1", "Host: x"]
    head += [f"{name}: {request.headers[name]}" for name in ("content-type", "content-length")]
    with serving(backend, HttpConfig(tiling=TILING)) as url:
        at = urlsplit(url)
        with socket.create_connection((at.hostname, at.port), timeout=LONG_S) as caller:
            caller.sendall("\r\n".join([*head, "", ""]).encode() + request.read())
            assert backend.asked.wait(LONG_S)
            assert not backend.ended.is_set()
        assert backend.ended.wait(LONG_S)
        text = httpx.get(f"{url}/metrics").text
        wait_until(lambda: "infill_requests_inside 0.0" in httpx.get(f"{url}/metrics").text)
        assert 'status="500"' not in text


def transparent(request_of) -> bytes:
    import io

    image = Image.open(io.BytesIO(request_of()["files"]["image"])).convert("RGBA")
    image.putpixel((3, 3), (0, 0, 0, 0))
    sink = io.BytesIO()
    image.save(sink, "png")
    return sink.getvalue()


WATCHED = (
    (ImageFile.ImageFile, "load"),
    (Image.Image, "save"),
    (base64, "b64encode"),
    (base64, "b64decode"),
    (NodeCounts, "_transaction"),
    (RequestMetrics, "text"),
)
"""What takes long for large files, for many requests, or while another process has a lock."""


def test_nothing_that_takes_long_is_done_on_the_event_loop(
    serving, replica, request_of, monkeypatch
):
    done: dict[str, set[int]] = {}
    loops = set()

    def watch(owner, name):
        real = getattr(owner, name)
        threads = done[name] = set()

        def watched(*values, **options):
            threads.add(threading.get_ident())
            return real(*values, **options)

        monkeypatch.setattr(owner, name, watched)

    class Watched:
        async def describe(self):
            return await replica.describe()

        async def fill(self, *arguments):
            loops.add(threading.get_ident())
            return await replica.fill(*arguments)

    files, image = request_of()["files"], transparent(request_of)
    encoded = {name: base64.b64encode(data).decode() for name, data in files.items()}
    tensors = [
        {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}
        for name, text in encoded.items()
    ]
    with serving(Watched(), HttpConfig(tiling=TILING, limits=LimitsConfig())) as url:
        for owner, name in WATCHED:
            watch(owner, name)
        sent = [
            ("/v1/inpaint", {"files": files}),
            ("/v1/inpaint", {"json": encoded, "headers": {"accept": "application/json"}}),
            ("/v1/inpaint/batch", {"files": files}),
            ("/v1/images/edits", {"files": {"image": image, "mask": image}}),
            ("/v1/images/edits", {"files": {"image": image}, "data": {"stream": "true"}}),
            ("/v2/models/spn/infer", {"json": {"inputs": tensors}}),
            ("/api/v1/inpaint", {"json": encoded}),
            ("/api/v1/adjust_mask", {"json": {**encoded, "operate": "expand"}}),
            ("/v1/mask", {"files": {"mask": files["mask"]}}),
        ]
        for path, request in sent:
            answer = httpx.post(f"{url}{path}", timeout=LONG_S, **request)
            assert answer.status_code == 200, answer.text
            assert '"error"' not in answer.text[:200]
        httpx.get(f"{url}/metrics", timeout=LONG_S)
    assert len(loops) == 1
    assert all(done.values())
    assert not [name for name, threads in done.items() if threads & loops]


@pytest.mark.parametrize("size", [(60, 60), (1100, 1000)], ids=["in a thread", "in a process"])
def test_blocked_decoder_does_not_hold_the_health_check(
    serving, replica, request_of, monkeypatch, size
):
    decoding, go_on = threading.Event(), threading.Event()

    def blocked(real):
        def read(*values):
            decoding.set()
            assert go_on.wait(LONG_S)
            return real(*values)

        return read

    monkeypatch.setattr(decoders, "read", blocked(decoders.read))
    monkeypatch.setattr(decoders._Decoder, "read", blocked(decoders._Decoder.read))
    with serving(replica, HttpConfig(tiling=TILING)) as url, ThreadPoolExecutor(1) as caller:
        sent = caller.submit(
            httpx.post, f"{url}/v1/inpaint", timeout=2 * LONG_S, **request_of(*size)
        )
        try:
            assert decoding.wait(LONG_S)
            assert httpx.get(f"{url}/healthz", timeout=LONG_S).json() == {"status": "alive"}
            assert not sent.done()
        finally:
            go_on.set()
        assert sent.result().status_code == 200
