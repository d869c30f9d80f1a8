"""Seconds that a generator takes for an image, measured on the machine at hand."""

import statistics
import time
from functools import partial

import torch

from infill.models import architecture
from infill.models.architecture import ModelConfig
from infill.models.flops import SIDE_PX

REPEATS = 5


def seconds_of(config: ModelConfig, device: str, repeats: int = REPEATS) -> float:
    """Return the median seconds of one prediction of 256 x 256 px, after one that is not counted.

    Args:
        config: of the generator; its weights are random, as times do not depend on them.
        device: "cpu" or "cuda", whose work is waited for.
        repeats: predictions that are counted.
    """
    generator = architecture.load(config.architecture).generator(config).to(device).eval()
    image = torch.zeros(1, 3, SIDE_PX, SIDE_PX, device=device)
    mask = torch.zeros(1, 1, SIDE_PX, SIDE_PX, device=device)
    predict = partial(generator, *architecture.inputs_of(config, image, mask))
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            predict()
            if device != "cpu":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
