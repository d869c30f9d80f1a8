"""Random numbers with a seed of their own: no other generator, and no other device, changes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the generators of the CPU and of one device, and restore their states at the end.

    ``torch.manual_seed`` would seed every GPU of the machine, and ``fork_rng`` without devices
    would open a context on each of them.

    Args:
        seed: of both generators.
        device: the device that the block computes on; a GPU without an index is the current one.
    """
    own = torch.device(device)
    if own.type != "cuda":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    index = torch.cuda.current_device() if own.index is None else own.index
    with torch.random.fork_rng(devices=[index]):
        torch.default_generator.manual_seed(seed)
        torch.cuda.default_generators[index].manual_seed(seed)
        yield


def fill_normal(tensor: Tensor, deviation: float, generator: torch.Generator) -> None:
    """Fill a tensor on any device with normal random values of mean 0 that the CPU generates.

    A GPU refuses a generator of the CPU, and its own gives other values for the same seed.
    """
    values = torch.empty_like(tensor, device="cpu").normal_(0.0, deviation, generator=generator)
    tensor.copy_(values)
