"""Measure one network in a process of its own, and print the result as JSON.

python tests/benchmarks/one_step.py time madf naive step 1

A process of its own, because the greatest memory a process ever held can be read but not what one
call of it held.
"""

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from infill.models import architecture
from infill.models.architecture import Batch
from infill.models.flops import flop_counter, without_files
from infill.models.layers import at_rest, channels_innermost

SIDE_PX = 256
REPEATS = 3
MIB = 2**20
SLICES = {"deepfill": 6, "deepfill2": 2}
"""Parts into which one step cuts its batch: updates that see images of their own."""


def reference_of(name: str) -> ModuleType:
    """Import ``tests/models/NAME/reference.py`` by its path."""
    path = Path(__file__).parents[1] / "models" / name / "reference.py"
    spec = importlib.util.spec_from_file_location(f"reference_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch_of(count: int) -> Batch:
    """Return noise with a hole of a quarter of the frame in its middle."""
    image = torch.rand(count, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(count, 1, SIDE_PX, SIDE_PX)
    mask[:, :, SIDE_PX // 4 : -SIDE_PX // 4, SIDE_PX // 4 : -SIDE_PX // 4] = 1
    names = tuple(f"sample{index}" for index in range(count))
    return Batch(image=image * 2 - 1, mask=mask, keys=names, mask_ids=names, seed=3)


def work_of(
    name: str, form: str, kind: str, count: int
) -> tuple[Callable[[], object], list[nn.Module]]:
    """Return the function to measure, a prediction or an update, and its networks."""
    paper, config = architecture.load(name), without_files(architecture.load(name).config())
    torch.manual_seed(0)
    if kind == "forward":
        generator = paper.generator(config).eval()
        drawing = reference_of(name).naive(generator) if form == "naive" else at_rest(generator)
        batch = batch_of(count)
        return lambda: drawing(batch.image, batch.mask), [generator]
    batch = batch_of(count * SLICES.get(name, 1))

    def prepare(network: nn.Module) -> nn.Module:
        draws = isinstance(network, type(paper.generator(config)))
        if form == "ours":
            channels_innermost(network)
        return reference_of(name).naive(network) if form == "naive" and draws else network

    objective = paper.objective(config, prepare)
    return lambda: objective.step(batch), list(objective.networks.values())


def reset_peak() -> int:
    """Reset the peak memory; return the present memory in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return held("VmRSS")


def held(field: str) -> int:
    """Return a field of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; peak memory is measured on Linux only")


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def time_of(name: str, form: str, kind: str, count: int) -> dict[str, float]:
    """Call once to warm up and count, then for time."""
    work, _ = work_of(name, form, kind, count)
    with torch.set_grad_enabled(kind == "step"):
        with flop_counter() as counter:
            work()
        seconds = statistics.median(seconds_of(work) for _ in range(REPEATS))
    return {"seconds": seconds, "gmac": counter.get_total_flops() / 2e9}


def memory_of(name: str, form: str, kind: str, count: int) -> dict[str, float]:
    """Return the peak memory of one call beyond weights and optimizer state, with gradients."""
    work, networks = work_of(name, form, kind, count)
    with torch.set_grad_enabled(kind == "step"):
        work()
        for network in networks:
            network.zero_grad()
        before = reset_peak()
        work()
    return {"peak_mib": (held("VmHWM") - before) / MIB}


def profile_of(name: str, form: str, kind: str, count: int) -> dict[str, dict[str, list[float]]]:
    """Return each operation's own microseconds, the least of some calls, and number of calls."""
    torch.set_num_threads(1)
    work, _ = work_of(name, form, kind, count)
    least: dict[str, list[float]] = {}
    with torch.set_grad_enabled(kind == "step"):
        work()
        for _ in range(REPEATS):
            with profile(activities=[ProfilerActivity.CPU]) as found:
                work()
            for one in found.key_averages():
                before = least.get(one.key, [float("inf")])[0]
                least[one.key] = [min(before, one.self_cpu_time_total), one.count]
    return {"operations": least}


def plain_rate() -> float:
    """Return the multiply-accumulates per second of a plain 3 x 3 convolution, in 10^9."""
    conv = nn.Conv2d(256, 256, 3, padding=1)
    features = torch.rand(4, 256, 64, 64)
    macs = features.shape[0] * 64 * 64 * 256 * 256 * 9

    def work() -> Tensor:
        predicted: Tensor = conv(features)
        return predicted

    with torch.no_grad():
        work()
        return macs / min(seconds_of(work) for _ in range(5)) / 1e9


if __name__ == "__main__":
    measure = {"time": time_of, "memory": memory_of, "profile": profile_of}
    asked, *arguments = sys.argv[1:]
    if asked == "rate":
        print(json.dumps({"gmac_per_s": plain_rate()}))
    else:
        name, form, kind, count = arguments
        print(json.dumps(measure[asked](name, form, kind, int(count))))
