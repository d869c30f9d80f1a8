"""Fill the object stores of both nodes past their brim, and hold on: a job for the drills."""

import time

import numpy as np
import ray


@ray.remote(num_cpus=0)
class Hog:
    """Holds 260 MB in a store of 200 MB."""

    def __init__(self) -> None:
        self.held = [ray.put(np.full(65_000_000, n, np.uint8)) for n in range(4)]

    def full(self) -> int:
        return sum(int(ray.get(each)[0]) for each in self.held)


ray.init(logging_level="ERROR")
hogs = [Hog.options(resources={node: 0.1}).remote() for node in ("cpu", "gpu-like")]
assert ray.get([hog.full.remote() for hog in hogs]) == [6, 6]
print("full", flush=True)
time.sleep(600)
