"""Fill the rows that need a GPU, in steps of at most eight minutes.

make bench-gpu                       # all steps; BENCH_GPU_OUT keeps the rows
make bench-gpu STEP=2                # one step, which goes on where it was interrupted
make bench-gpu STEP=3 SECONDS=2      # each measurement for 2 s in place of 5
make bench-gpu STEP=1 WHEELS=wheels BENCH_PYTHON=python3.12  # without network

1. one step of every architecture on the device against the CPU: float32, bfloat16, compiled,
   resumed, and the EMA
2. images per second, peak memory and share of the measured ceilings, at the paper's batch and an
   eighth of it
3. what each setting is worth
4. the loader into a step, for 1 to 16 cores
5. with Ray: a training whose worker is killed, fractions of a GPU, serving, a failed assertion

WHEELS is a folder with a wheel of every package that is needed. Steps 1 to 4 do not import Ray.
Each row is kept as soon as it is measured, in step-N.json; tables.md has all of them. Without a GPU
the steps run on the CPU, for a test (--tiny).
"""

import argparse
import copy
import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_results import MISSING, Results, tables
from gpu_work import (
    Training,
    batch_of,
    ceilings,
    changed,
    loading,
    names,
    now,
    recipe,
    smallest,
    write_set,
)

from infill.pipeline.loading import BatchStream
from infill.pipeline.training import ExponentialMovingAverage

TITLES = {
    1: "One step on the device against the CPU",
    2: "Throughput of training",
    3: "What each setting is worth",
    4: "The loader into a step",
    5: "With Ray",
}
LIMIT_S = 420.0
"""Seconds after which a step begins no further row; a row takes less than a minute."""
FORMS: dict[str, dict[str, Any]] = {
    "float32": {"tf32": "off"},
    "bfloat16": {"precision": "bfloat16"},
    "compiled": {"compile": True, "tf32": "off"},
}
"""Settings of the steps that are compared with the CPU's."""
TOGGLES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "bfloat16": {"precision": "bfloat16"},
    "contiguous": {"channels_last": False},
    "recompute": {"recompute": True},
    "TF32 off": {"tf32": "off"},
    "TF32 in products too": {"tf32": "all"},
    "cuDNN benchmark": {"cudnn_benchmark": True},
    "deterministic": {"deterministic": True},
    "Adam, foreach": {"model.optimizer.implementation": "foreach"},
    "Adam, loop": {"model.optimizer.implementation": "loop"},
    "compile": {"compile": True},
    "compile, CUDA graphs": {"compile": True, "cuda_graphs": True},
}
"""Settings of a training, by the name of their row."""


class Bench:
    """The steps, on one device."""

    def __init__(
        self, folder: Path, device: torch.device, tiny: bool, limit_s: float, seconds: float
    ) -> None:
        self.folder, self.device, self.tiny, self.limit_s = folder, device, tiny, limit_s
        self.seconds = 0.0 if tiny else seconds
        self.cpu_terms: dict[str, dict[str, torch.Tensor]] = {}

    def results(self, step: int) -> Results:
        return Results(self.folder, step, TITLES[step], self.limit_s)

    def networks(self) -> None:
        """Compare every architecture with the CPU, and with itself."""
        results = self.results(1)
        for form in ("float32", "bfloat16", "resumed", "EMA", "compiled"):
            for name in names():
                row = f"{name}, {form}"
                if results.wants(row):
                    results.add(row, **self.compared(name, form))
                    release(self.device)

    def compared(self, name: str, form: str) -> dict[str, Any]:
        """Return the largest relative difference of a loss term, or of a weight for the EMA."""
        config = recipe(name, self.tiny)
        ours = Training(changed(config, FORMS.get(form, {})), self.device)
        count = smallest(config)
        if form == "resumed":
            return self.resumed(ours, count)
        if form == "EMA":
            return {"largest difference": self.averaged(ours, count)}
        return relative(ours.step(batch_of(config, count, self.device)), self.on_cpu(name))

    def on_cpu(self, name: str) -> dict[str, torch.Tensor]:
        """Return the loss terms of one step on the CPU from the device's weights, computed once."""
        if name not in self.cpu_terms:
            self.cpu_terms[name] = self.step_on_cpu(name)
        return self.cpu_terms[name]

    def step_on_cpu(self, name: str) -> dict[str, torch.Tensor]:
        config, cpu = recipe(name, self.tiny), torch.device("cpu")
        first, other = Training(config, self.device), Training(config, cpu)
        for role, network in other.objective.networks.items():
            network.load_state_dict(first.objective.networks[role].state_dict())
        return other.step(batch_of(config, smallest(config), cpu))

    def resumed(self, ours: Training, count: int) -> dict[str, str]:
        """Return the difference between two steps and one step that is resumed."""
        first, second = (batch_of(ours.config, count, self.device, step) for step in (0, 1))
        ours.step(first)
        states = copy.deepcopy(
            (
                {role: n.state_dict() for role, n in ours.objective.networks.items()},
                {role: o.state_dict() for role, o in ours.objective.optimizers.items()},
            )
        )
        whole = ours.step(second)
        other = Training(ours.config, self.device)
        for role, network in other.objective.networks.items():
            network.load_state_dict(states[0][role])
        for role, optimizer in other.objective.optimizers.items():
            optimizer.load_state_dict(states[1][role])
        return relative(other.step(second), whole)

    def averaged(self, ours: Training, count: int) -> str:
        """Return the difference between the EMA on the device and its formula on the CPU."""
        generator = ours.objective.generator
        average = ExponentialMovingAverage(generator, 0.9)
        expected = {n: v.cpu().double() for n, v in generator.state_dict().items()}
        for step in range(2):
            ours.step(batch_of(ours.config, count, self.device, step))
            average.update(step)
            decay = min(0.9, (1 + step) / (10 + step))
            for key, value in generator.state_dict().items():
                mixed = decay * expected[key] + (1 - decay) * value.cpu().double()
                expected[key] = mixed if value.is_floating_point() else value.cpu().double()
        found = average.network.state_dict()
        worst = max(
            (found[key].cpu().double() - value).abs().max().item()
            for key, value in expected.items()
            if value.numel()
        )
        return f"{worst:.1e}"

    def throughput(self) -> None:
        """Measure each paper's batch and an eighth of it."""
        results = self.results(2)
        top = {}
        for kind in ("float32", "bfloat16"):
            if results.wants(f"ceiling, {kind}"):
                found = ceilings(self.device, kind == "bfloat16", self.tiny)
                results.add(f"ceiling, {kind}", **{f"{n}, TFLOP/s": v for n, v in found.items()})
            top[kind] = results.rows.get(f"ceiling, {kind}", {})
        for name in names():
            config = recipe(name, self.tiny)
            least = smallest(config)
            whole = least if self.tiny else config.data.batch_size
            training = None
            for count in dict.fromkeys((whole, max(whole // 8 // least, 1) * least)):
                for kind in ("float32", "bfloat16"):
                    row = f"{name}, batch {count}, {kind}"
                    if results.wants(row):
                        training = training or Training(config, self.device)
                        training.config = changed(config, {"precision": kind})
                        results.add(row, **self.rate(training, count, top[kind]))
                        release(self.device)
            del training
            release(self.device)

    def rate(self, training: Training, count: int, top: dict[str, Any]) -> dict[str, Any]:
        """Return throughput, memory and the share of the ceilings; or that it does not fit."""
        try:
            speed = training.images_per_s(count, self.seconds)
            used = training.flops(count) / count * speed / 1e12
        except torch.cuda.OutOfMemoryError:
            return {"images/s": "out of memory"}
        peak = MISSING
        if self.device.type == "cuda":
            peak = f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f}"
        shares = {
            f"of the {name.partition(',')[0]}": f"{used / rate:.0%}" for name, rate in top.items()
        }
        return {"images/s": f"{speed:.1f}", "peak GiB": peak, "TFLOP/s": f"{used:.3g}", **shares}

    def toggles(self) -> None:
        """Measure each setting alone."""
        results = self.results(3)
        for title, changes in TOGGLES.items():
            for name in ("spn",) if self.tiny else ("spn", "deepfill2", "lama"):
                config = recipe(name, self.tiny)
                count = smallest(config) if self.tiny else config.data.batch_size
                row = f"{name}, {title}"
                if "cuda_graphs" in changes and self.device.type != "cuda":
                    continue
                if results.wants(row):
                    training = Training(changed(config, changes), self.device)
                    speed = training.images_per_s(count, self.seconds)
                    results.add(row, **{"images/s": f"{speed:.1f}"})
                    del training
                    release(self.device)

    def loader(self) -> None:
        """Feed real steps from shards, with decoders on a number of cores."""
        results = self.results(4)
        config = recipe("unet", self.tiny)
        count = 4 if self.tiny else 32
        with tempfile.TemporaryDirectory() as folder:
            shards = write_set(Path(folder), 8 * count, 2 * config.data.image_size_px)
            for cores in (1, 2) if self.tiny else (1, 2, 4, 8, 16):
                if cores > (os.cpu_count() or 1) or not results.wants(f"{cores} cores"):
                    continue
                training = Training(config, self.device)
                data = loading(shards, config, cores, count)
                with BatchStream(data, device=self.device) as stream:
                    speed, waited = self.fed(training, stream, count)
                    alone = self.unfed(stream, count)
                row = {"images/s": f"{speed:.1f}", "waiting for data": f"{waited:.0%}"}
                results.add(f"{cores} cores", **row, **{"without steps, images/s": f"{alone:.1f}"})

    def fed(self, training: Training, stream: BatchStream, count: int) -> tuple[float, float]:
        """Return the throughput and the share of the time that steps wait for batches."""
        for _ in range(2):
            training.step(next(stream))
        steps, begin, waited = 0, now(self.device), stream.wait_s
        while steps < 3 or now(self.device) - begin < 2 * self.seconds:
            training.step(next(stream))
            steps += 1
        elapsed = now(self.device) - begin
        return steps * count / elapsed, (stream.wait_s - waited) / elapsed

    def unfed(self, stream: BatchStream, count: int) -> float:
        """Return the throughput of the loader alone, its batches on the device."""
        steps, begin = 0, now(self.device)
        while steps < 3 or now(self.device) - begin < self.seconds:
            next(stream)
            steps += 1
        return steps * count / (now(self.device) - begin)

    def with_ray(self) -> None:
        """Measure what needs Ray, or say that it is not installed."""
        try:
            import ray  # noqa: F401
        except ImportError:
            print(f"  Ray is not installed: {MISSING}", flush=True)
            return
        import gpu_ray

        gpu_ray.measure(self.results(5), self.device, self.tiny, 3 * self.seconds)


def relative(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, str]:
    """Return the largest relative difference of two steps' loss terms, and whose it is."""
    if list(ours) != list(theirs):
        raise ValueError(f"loss terms differ: {list(ours)} and {list(theirs)}")
    apart = {
        name: abs(ours[name].item() - value.item()) / max(abs(value.item()), 1e-6)
        for name, value in theirs.items()
    }
    worst = max(apart, key=lambda name: apart[name])
    return {"largest difference": f"{apart[worst]:.1e}", "of the term": worst}


def release(device: torch.device) -> None:
    """Give the memory of a finished row back, and forget its peak."""
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--step", type=int, choices=sorted(TITLES), help="one step; all without it")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-gpu"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S)
    parser.add_argument("--seconds", type=float, default=5.0, help="least time of a measurement")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, for a test")
    asked = parser.parse_args(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(asked.device)
    bench = Bench(asked.out, device, asked.tiny, asked.limit_s, asked.seconds)
    steps: dict[int, Callable[[], None]] = {
        1: bench.networks,
        2: bench.throughput,
        3: bench.toggles,
        4: bench.loader,
        5: bench.with_ray,
    }
    for number, work in steps.items():
        if asked.step in (None, number):
            print(f"{number}. {TITLES[number]}, on {bench.device}", flush=True)
            work()
            (asked.out / "tables.md").write_text(tables(asked.out) + "\n")
    print(f"tables: {asked.out / 'tables.md'}", flush=True)


if __name__ == "__main__":
    main()
