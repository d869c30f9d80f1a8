"""Print the memory that requests of each kind take in an ingress, in bytes a pixel, as JSON.

Runs in a process of its own, whose allocator returns what is freed at once: by the variables of
``MALLOC`` in test_limits.py.
"""

import asyncio
import gc
import io
import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from infill.pipeline.inference.pair_files import InpaintOptions
from infill.pipeline.serving.http.decoders import DecoderPool
from infill.pipeline.serving.http.inpaint_service import HttpConfig, InpaintService
from infill.pipeline.serving.http.request_metrics import RequestMetrics
from infill.pipeline.serving.limits import PixelBudget
from infill.pipeline.serving.replica.replica import GeneratedTile, ServedModel

SIDE_PX = 1060
CONTROL_BYTES = 16
"""Bytes a pixel of the array whose memory is measured as a control."""
MODEL = ServedModel(name="m", reference="m", version="1", digest="d" * 64, location="m")


class Grey:
    """A backend that predicts grey."""

    async def fill(self, wanted, image, mask, samples, seed, background) -> GeneratedTile:
        grey = np.full((samples, *mask.shape, 3), 127, np.uint8)
        return GeneratedTile(predictions=grey, model=MODEL, batch_size=1, compute_s=0.0)

    async def describe(self) -> list[ServedModel]:
        return [MODEL]


def held_bytes(name: str) -> int:
    """Return a number of this process's own status, such as VmHWM, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def bytes_per_pixel(work: Callable[[], object]) -> float:
    """Return the memory that some work takes at its peak."""
    gc.collect()
    before = held_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return (held_bytes("VmHWM") - before) / SIDE_PX**2


def file_of(pixels: np.ndarray, form: str) -> bytes:
    sink = io.BytesIO()
    options = {"png": {"compress_level": 0}, "jpeg": {"quality": 90}, "webp": {"quality": 80}}[form]
    Image.fromarray(pixels).save(sink, form, **options)
    return sink.getvalue()


def main() -> None:
    """Measure formats with and without alpha, small and large holes; pixels are noise."""
    random = np.random.default_rng(0)
    config = HttpConfig()
    service = InpaintService(
        Grey(), config, PixelBudget(10**9), RequestMetrics(), DecoderPool(1), None
    )
    holes = {}
    for share, mode in ((0.1, "auto"), (0.9, "tile")):
        hole = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        hole[: int(SIDE_PX * share)] = 255
        holes[mode] = file_of(hole, "png")
    kinds = [("png", 3), ("png", 4), ("jpeg", 3), ("webp", 3), ("webp", 4)]
    files = {
        kind: file_of(random.integers(0, 256, (SIDE_PX, SIDE_PX, kind[1]), np.uint8), kind[0])
        for kind in kinds
    }
    with asyncio.Runner() as runner:

        def send(form: str, channels: int, mode: str) -> None:
            options = InpaintOptions(mode=mode, output_format=form)
            runner.run(service.inpaint(options, files[form, channels], holes[mode]))

        send("png", 3, "auto")  # What is loaded with the first one is not its own.
        found = {
            f"{form} of {channels} channels, {mode}": bytes_per_pixel(
                partial(send, form, channels, mode)
            )
            for (form, channels), mode in product(kinds, holes)
        }
    control = bytes_per_pixel(lambda: np.ones(CONTROL_BYTES * SIDE_PX**2, np.uint8))
    print(json.dumps({"control": control / CONTROL_BYTES, "requests": found}))


if __name__ == "__main__":
    main()
