"""The network on one thread with pictures in memory; prints the median seconds of a pass.

python one_bare.py CHECKPOINT BATCH SIDE_PX SECONDS
"""

import sys
import time

import numpy as np
import torch

from infill.pipeline.checkpoints import load_generator
from infill.pipeline.inference import Predictor


def main(checkpoint: str, batch: int, side: int, seconds: float) -> float:
    torch.set_num_threads(1)
    loaded = load_generator(checkpoint)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, side, side, 3), np.uint8)
    masks = np.zeros((batch, side, side), np.uint8)
    masks[:, side // 4 : side // 2, side // 4 : side // 2] = 1
    predictor = Predictor.of(loaded)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 8:
        begin = time.perf_counter()
        predictor.predict(images, masks)
        times.append(time.perf_counter() - begin)
    return float(np.median(times[2:]))


if __name__ == "__main__":
    place, count, side, seconds = sys.argv[1:]
    print(main(place, int(count), int(side), float(seconds)))
