"""The work that `make bench-gpu` measures: steps of real trainings, on any device."""

import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from infill.models import architecture
from infill.models.architecture import Batch, Objective
from infill.models.flops import flop_counter, without_files
from infill.pipeline import storage
from infill.pipeline.config import override
from infill.pipeline.loading import BatchConfig
from infill.pipeline.manifest import SAMPLE_SCHEMA, Manifest, ShardRecord, write_manifest
from infill.pipeline.masks import MaskConfig
from infill.pipeline.sharding.tar_writer import TarWriter
from infill.pipeline.training import TrainConfig, WorkerContext, build_objective
from infill.pipeline.training.arithmetic import arithmetic


def recipe(name: str, tiny: bool) -> TrainConfig:
    """Return the first preset of a paper's job, or a tiny training of the same losses.

    Frozen networks of other authors are random: their files are not needed to measure.
    """
    presets = importlib.import_module(f"infill.jobs.train_{name}").PRESETS
    paper = next(iter(presets.values()))
    model = type(paper.model).tiny() if tiny else paper.model
    data = replace(paper.data, image_size_px=64 if tiny else paper.data.image_size_px)
    return replace(paper, model=without_files(model), data=data, num_workers=0, accumulate=1)


def batch_of(config: TrainConfig, count: int, device: torch.device, step: int = 0) -> Batch:
    """Return noise with a hole of a quarter of the frame; the same on every device."""
    side = config.data.image_size_px
    image = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(step)) * 2 - 1
    mask = torch.zeros(count, 1, side, side)
    mask[:, :, side // 4 : -side // 4, side // 4 : -side // 4] = 1
    names = tuple(f"sample{index}" for index in range(count))
    return Batch(
        image=image.to(device),
        mask=mask.to(device),
        keys=names,
        mask_ids=names,
        seed=step,
        step=step,
    )


def smallest(config: TrainConfig) -> int:
    """Return the smallest batch that the model takes, above one sample."""
    multiple = config.model.share_multiple
    return multiple if multiple > 1 else 2


class Training:
    """A training without data and checkpoints, on one device."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        worker = WorkerContext(device=device, channels_last=config.channels_last)
        self.objective: Objective = build_objective(config, worker)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step in the precision of the configuration."""
        low = self.config.precision == "bfloat16"
        with (
            arithmetic(self.config, print),
            torch.autocast(self.device.type, torch.bfloat16, enabled=low),
        ):
            if self.config.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            return self.objective.step_with_accumulation(batch)

    def images_per_s(self, count: int, seconds: float) -> float:
        """Return the throughput with batches of ``count`` that are on the device already."""
        batch = batch_of(self.config, count, self.device)
        warm, least = (2, 3) if seconds else (1, 1)
        for step in range(warm):
            self.step(replace(batch, step=step))
        steps, begin = 0, now(self.device)
        while steps < least or now(self.device) - begin < seconds:
            self.step(replace(batch, step=warm + steps))
            steps += 1
        return steps * count / (now(self.device) - begin)

    def flops(self, count: int) -> float:
        """Return the floating-point operations of a step."""
        with flop_counter() as counter:
            self.step(batch_of(self.config, count, self.device))
        return float(counter.get_total_flops())


def now(device: torch.device) -> float:
    """Return the time once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ceilings(device: torch.device, low: bool, tiny: bool) -> dict[str, float]:
    """Return the measured rates of a plain matrix product and convolution, in TFLOP/s."""
    kind, side = (torch.bfloat16 if low else torch.float32), (128 if tiny else 8192)
    matrix = torch.rand(side, side, device=device, dtype=kind)
    channels = 16 if tiny else 256
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=kind)
    conv = conv.to(memory_format=torch.channels_last)
    maps = torch.rand(4 if tiny else 32, channels, 64, 64, device=device, dtype=kind)
    maps = maps.to(memory_format=torch.channels_last)
    work: dict[str, tuple[Callable[[], Tensor], float]] = {
        "matmul": (lambda: matrix @ matrix, 2.0 * side**3),
        "convolution": (lambda: conv(maps), 2.0 * maps.numel() * channels * 9),
    }
    found = {}
    for name, (call, operations) in work.items():
        with torch.no_grad():
            call()
            times = []
            for _ in range(3):
                begin = now(device)
                call()
                times.append(now(device) - begin)
        found[name] = operations / min(times) / 1e12
    return found


def write_set(folder: Path, count: int, side: int) -> str:
    """Write a shard set of noise with JPEG files, without Ray."""
    random, rows, records = np.random.default_rng(5), [], []
    per_shard = max(count // 4, 1)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(count // per_shard):
        name = f"shard-{shard:06d}.tar"
        with (folder / name).open("wb") as stream:
            writer = TarWriter(stream)
            for number in range(per_shard):
                coarse = random.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
                picture = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
                data = cv2.imencode(".jpg", picture)[1].tobytes()
                key = f"noise-{shard:03d}-{number:04d}"
                rows.append(
                    {
                        "key": key,
                        "source": f"{key}.jpg",
                        "suffix": "jpg",
                        "shard": shard,
                        "offset": writer.add(f"{key}.jpg", data),
                        "size": len(data),
                        "sha256": storage.sha256(data),
                        "height_px": side,
                        "width_px": side,
                    }
                )
            writer.close()
        checksum = writer.checksum.hexdigest()
        records.append(ShardRecord(name=name, samples=per_shard, size=writer.size, sha256=checksum))
    samples = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
    write_manifest(Manifest(location=str(folder), samples=samples, shards=tuple(records)))
    return str(folder)


def loading(shards: str, config: TrainConfig, cores: int, batch: int) -> BatchConfig:
    """Return the loader of a training for a number of cores."""
    return replace(
        config.data,
        shards=shards,
        batch_size=batch,
        masks_per_image=1,
        masks=MaskConfig(),
        loader="processes",
        num_decode_workers=cores,
    )


def changed(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """Return the configuration with other fields."""
    return override(config, changes)


def names() -> list[str]:
    """Return every architecture."""
    return list(architecture.names())
