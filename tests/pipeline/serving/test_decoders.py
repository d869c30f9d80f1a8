"""Decoding in processes that end with the request they work for."""

import asyncio
import os
import resource
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import ImageFile

from infill.pipeline.errors import ImageError
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.inference.pair_files import InpaintOptions
from infill.pipeline.serving.http import decoders
from infill.pipeline.serving.http.decoders import DecoderPool, ReadTask
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.limits import LimitsConfig

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
    np.testing.assert_array_equal(apart.picture.pixels, here.picture.pixels)
    np.testing.assert_array_equal(apart.hole, here.hole)
    assert (apart.layout, apart.picture.format) == (here.layout, "png")
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

    from PIL import Image

    image = Image.open(io.BytesIO(request_of()["files"]["image"])).convert("RGBA")
    image.putpixel((3, 3), (0, 0, 0, 0))
    sink = io.BytesIO()
    image.save(sink, "png")
    return sink.getvalue()


def test_nothing_is_decoded_on_the_event_loop(serving, replica, request_of, monkeypatch):
    decoding, loops = set(), set()
    load = ImageFile.ImageFile.load

    def watched(self):
        decoding.add(threading.get_ident())
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)

    class Watched:
        async def describe(self):
            return []

        async def fill(self, *arguments):
            loops.add(threading.get_ident())
            return await replica.fill(*arguments)

    image = transparent(request_of)
    with serving(Watched(), HttpConfig(tiling=TILING, limits=LimitsConfig())) as url:
        sent = [
            ("/v1/inpaint", {"files": request_of()["files"]}),
            ("/v1/images/edits", {"files": {"image": image, "mask": image}}),
        ]
        for path, request in sent:
            answer = httpx.post(f"{url}{path}", timeout=LONG_S, **request)
            assert answer.status_code == 200, answer.text
    assert decoding
    assert loops
    assert not decoding & loops
