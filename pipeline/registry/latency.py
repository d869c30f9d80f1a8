"""The size of a network and its latency on this machine."""

import statistics
import time
from dataclasses import dataclass

import torch

from infill.models.architecture import fill
from infill.pipeline import checkpoints
from infill.pipeline.provenance import processor

REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The size and latency of a checkpoint's generator."""

    parameters: int
    latency_ms: float
    """Milliseconds per image on one thread: the median of five."""
    side_px: int
    """Side of that image in pixels: the training size."""
    processor: str
    """Name of the processor."""


def measure_latency(checkpoint: str) -> Latency:
    """Load a checkpoint and inpaint one image of its training size a few times, on the CPU.

    Raises:
        UserError: if there is no checkpoint, or it is damaged.
    """
    loaded = checkpoints.load_generator(checkpoint)
    side = loaded.image_size_px
    image, mask = torch.zeros(1, 3, side, side), torch.zeros(1, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    labels = image if loaded.config.takes_labels else None
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(REPEATS + 1):
                start = time.perf_counter()
                fill(loaded.generator, image, mask, loaded.config.size_multiple, labels)
                times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return Latency(
        parameters=sum(weight.numel() for weight in loaded.generator.parameters()),
        latency_ms=1000 * statistics.median(times[1:]),
        side_px=side,
        processor=processor(),
    )
