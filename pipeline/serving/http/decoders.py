"""Decode images and plan their tiles in processes that can be killed.

A thread cannot be ended while a decoder works in it: a file that takes minutes would keep its
thread after the deadline, and after its caller has left. A process is killed and replaced. Its
memory is bounded, for formats whose frames may be larger than the size they announce, such as AVIF.
Small images are decoded in a thread, because they cannot cost much.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import cast

import numpy as np

from infill.pipeline.errors import ImageError
from infill.pipeline.images import DecodedImage, Hole, MaskForm, MaskRule, Pixels, read_mask_form
from infill.pipeline.inference import tiling
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.inference.pair_files import InpaintOptions, decode_pair, plan_pair

SMALL_PIXELS = 2**20
"""Number of pixels up to which an image is decoded in a thread."""
BYTES_PER_PIXEL = 40
"""Memory that a process may take for each pixel of the largest accepted image: arrays of image,
mask and tiles, and the frames of a decoder."""
_SPARE_BYTES = 512 * 2**20  # files, and libraries that are loaded with the first image
_ATTEMPTS = 2
_PROGRAM = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from infill.pipeline.serving.http.decoders import serve
serve(int(sys.argv[2]))"""
"""Program of a process: it finds modules where its parent does, as a cluster's job has a folder of
its own."""


@dataclass(frozen=True, kw_only=True)
class ReadTask:
    """A pair of files to read."""

    image: bytes
    mask: bytes | None
    options: InpaintOptions
    max_pixels: int
    tiling: TilingConfig


@dataclass(frozen=True, kw_only=True)
class ReadPair:
    """A decoded pair, its layout, and the tiles of image and mask."""

    image: DecodedImage
    hole: Hole
    hole_ratio: float
    mask_form: MaskForm
    layout: tiling.Layout
    tiles: list[tuple[Pixels, Pixels]]
    plan_s: float
    """Seconds of planning and splitting."""


def read(task: ReadTask) -> ReadPair:
    """Decode a pair and plan its tiles.

    Raises:
        ImageError: if a file is not accepted.
    """
    image, hole, form = decode_pair(task.image, task.mask, task.options, task.max_pixels)
    decoded = time.perf_counter()
    layout = plan_pair(hole, task.options, task.tiling)
    tiles = layout.split_tiles(image.rgb, hole)
    plan_s = time.perf_counter() - decoded
    return ReadPair(
        image=image,
        hole=hole,
        hole_ratio=float(hole.mean()),
        mask_form=form,
        layout=layout,
        tiles=tiles,
        plan_s=plan_s,
    )


@dataclass(frozen=True, kw_only=True)
class MaskTask:
    """A mask file to read."""

    mask: bytes
    rule: MaskRule
    max_pixels: int


@dataclass(frozen=True, kw_only=True)
class ReadMask:
    """A hole, and what marks it in its file."""

    hole: Hole
    hole_ratio: float
    form: MaskForm


def read_one_mask(task: MaskTask) -> ReadMask:
    """Read a mask.

    Raises:
        ImageError: if the file is not accepted, or marks no or all pixels.
    """
    hole, form = read_mask_form(task.mask, task.rule, max_pixels=task.max_pixels)
    return ReadMask(hole=hole, hole_ratio=float(hole.mean()), form=form)


class _DiedError(Exception):
    """A process ended while it had a task, or before."""


class DecoderPool:
    """A few decoding processes, started when the first large image arrives.

    Args:
        count: number of processes, and of large images that are decoded at once.
    """

    def __init__(self, count: int) -> None:
        self._free: asyncio.Queue[_Decoder] = asyncio.Queue()
        for _ in range(count):
            self._free.put_nowait(_Decoder())
        self._threads = ThreadPoolExecutor(2 * count, thread_name_prefix="decoder")

    async def read(self, task: ReadTask, pixels: int) -> ReadPair:
        """Decode a pair; if the caller is cancelled, the process that works for it is killed.

        Args:
            task: the files.
            pixels: number of pixels of the larger of them.

        Raises:
            ImageError: if a file is not accepted, or ended its decoder.
        """
        if pixels <= SMALL_PIXELS:
            return await asyncio.to_thread(read, task)
        return cast(ReadPair, await self._read_apart(task))

    async def read_mask(self, task: MaskTask, pixels: int) -> ReadMask:
        """Read a mask, as :meth:`read` reads a pair."""
        if pixels <= SMALL_PIXELS:
            return await asyncio.to_thread(read_one_mask, task)
        return cast(ReadMask, await self._read_apart(task))

    async def _read_apart(self, task: ReadTask | MaskTask) -> ReadPair | ReadMask:
        for _ in range(_ATTEMPTS):
            with suppress(_DiedError):
                return await self._read_once(task)
        raise ImageError("damaged_image", "the image ends its decoder: it cannot be decoded")

    async def _read_once(self, task: ReadTask | MaskTask) -> ReadPair | ReadMask:
        decoder = await self._free.get()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, decoder.read, task)
        except (asyncio.CancelledError, _DiedError):
            decoder.kill()
            decoder = _Decoder()
            raise
        finally:
            self._free.put_nowait(decoder)

    def processes(self) -> list[int]:
        """Return the ids of the processes that wait for work."""
        waiting = [self._free.get_nowait() for _ in range(self._free.qsize())]
        for decoder in waiting:
            self._free.put_nowait(decoder)
        return [decoder.process.pid for decoder in waiting if decoder.process is not None]


class _Decoder:
    """One process, started at its first task."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._killed = False

    def read(self, task: ReadTask | MaskTask) -> ReadPair | ReadMask:
        """Send a task and wait for its result; runs in a thread."""
        if self._pipe is None:
            self._start()
        pipe = self._pipe
        assert pipe is not None
        try:
            pipe.send(task)
            found = pipe.recv()
            if isinstance(found, Exception):
                raise found
            return found if isinstance(found, ReadMask) else _receive(pipe, found)
        except (EOFError, OSError) as error:
            raise _DiedError from error

    def _start(self) -> None:
        ours, theirs = Pipe()
        number = theirs.fileno()
        words = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(number)]
        self.process = subprocess.Popen(words, pass_fds=[number], stdin=subprocess.DEVNULL)
        theirs.close()
        self._pipe = ours
        weakref.finalize(self, _end, self.process, ours)
        if self._killed:
            self.kill()

    def kill(self) -> None:
        """End the process; its thread then gets the end of the pipe."""
        self._killed = True
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def _end(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    pipe.close()
    process.kill()
    process.wait()


def serve(number: int) -> None:
    """Read pairs until the pipe closes. Runs in a decoding process."""
    import cv2

    cv2.setNumThreads(1)
    with suppress(AttributeError, OSError):
        os.nice(5)  # Answers come before the next images.
    pipe = Connection(number)
    bounded = False
    with suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            if not bounded:
                _bound_memory(BYTES_PER_PIXEL * task.max_pixels + _SPARE_BYTES)
                bounded = True
            _answer(pipe, task)


def _bound_memory(more: int) -> None:
    """Let this process take so many more bytes of memory; systems without such a bound give none.

    Beyond it an allocation fails: the image is refused, or the process ends.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    most = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(pipe: Connection, task: ReadTask | MaskTask) -> None:
    try:
        if isinstance(task, MaskTask):
            pipe.send(read_one_mask(task))
            return
        found = read(task)
    except ImageError as error:
        pipe.send(error)
        return
    except MemoryError:
        refusal = "the image needs more memory than its size allows: save it as PNG or JPEG"
        pipe.send(ImageError("too_many_pixels", refusal))
        return
    except Exception as error:  # a defect is reported where it is logged
        pipe.send(RuntimeError(f"{type(error).__name__} while an image was decoded: {error}"))
        return
    arrays = [found.image.pixels, found.hole, *(part for tile in found.tiles for part in tile)]
    empty = replace(found.image, pixels=found.image.pixels[:0])
    bare = replace(found, image=empty, tiles=[])
    pipe.send((replace(bare, hole=found.hole[:0]), [(one.shape, one.dtype.str) for one in arrays]))
    for one in arrays:
        pipe.send_bytes(np.ascontiguousarray(one).reshape(-1).view(np.uint8).data)


def _receive(
    pipe: Connection, found: tuple[ReadPair, Sequence[tuple[tuple[int, ...], str]]]
) -> ReadPair:
    """Receive the arrays of a pair; nothing is copied twice."""
    bare, shapes = found
    arrays = []
    for shape, kind in shapes:
        one = np.empty(shape, np.dtype(kind))
        if one.nbytes:
            pipe.recv_bytes_into(one.reshape(-1).view(np.uint8).data)
        else:
            pipe.recv_bytes()
        arrays.append(one)
    image = replace(bare.image, pixels=arrays[0])
    tiles = list(zip(arrays[2::2], arrays[3::2], strict=True))
    return replace(bare, image=image, hole=arrays[1], tiles=tiles)
