"""Training: the overhead of Ray Train, its checkpoints and its batches over a bare PyTorch loop.

PHOTOGRAPHS=/data/bsds500 make bench ONLY=training

The same objective on the same batches takes the same steps twice in turns: as a training job under
Ray Train, and in a loop under torchrun whose batches are in memory before it starts.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from bench_data import PHOTOGRAPHS, job
from conditions import turns
from pages import machine, table, write_section

from infill.pipeline.cluster import connect
from infill.pipeline.config import override, to_json
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.training import TrainConfig, train

BARE = Path(__file__).with_name("one_training.py")
NAMES = ("madf", "lama")
WARM, STEPS = 20, 40
BATCH = 16


def configured(name: str, shards: str, storage: Path, workers: int, batch: int) -> TrainConfig:
    """Return the architecture's cpu preset, for so many steps and one checkpoint at their end."""
    preset: TrainConfig = importlib.import_module(f"infill.jobs.train_{name}").PRESETS["cpu"]
    changes: dict[str, Any] = {
        "data.shards": shards,
        "data.batch_size": batch,
        "storage": str(storage),
        "steps": WARM + STEPS,
        "num_workers": workers,
        "ema_decay": 0.0,
        "report_every_steps": WARM,
        "save_every_steps": WARM + STEPS,
        "sample_every_steps": WARM + STEPS,
        "tracking": TrackingConfig(tracking_uri=""),
    }
    return override(preset, changes)


def under_ray(config: TrainConfig) -> float:
    """Return a step's seconds as the run itself reports them."""
    train(config, lambda line: None)
    [progress] = Path(config.storage).glob("progress-*.jsonl")
    records = [json.loads(line) for line in progress.read_text().splitlines()]
    rates = [r["values"]["samples_per_s"] for r in records if r["kind"] == "losses"]
    return sum(config.data.batch_size / rate for rate in rates[1:]) / len(rates[1:])


def bare(config: TrainConfig, file: Path) -> float:
    """Return a step's seconds in a loop without Ray."""
    file.write_text(to_json(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(config.num_workers), str(BARE), str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(WARM), str(STEPS)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer["step_s"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    source = ["folder", "--source", PHOTOGRAPHS] if PHOTOGRAPHS else ["bundled"]
    words = [*source, "--out", str(folder), "--splits", "shares", "--val-share", "0"]
    words += ["--test-share", "0", "--photographs-per-shard", "25", "--format", "jpg"]
    job("make_shards", *words, "--resize-short-side-px", "72")
    return str(folder)


def test_bench_training(shards: str, tmp_path: Path) -> None:
    """Measure every architecture with one worker and with two, each with eight samples."""
    rows = []
    with connect():
        for name in NAMES:
            found: dict[tuple[int, str], list[float]] = {}
            for workers, form in turns([(1, "ray"), (1, "bare"), (2, "ray"), (2, "bare")]):
                taken = found.setdefault((workers, form), [])
                place = tmp_path / f"{name}-{workers}-{len(taken)}"
                config = configured(name, shards, place, workers, BATCH // 2 * workers)
                file = tmp_path / f"{name}.json"
                taken.append(under_ray(config) if form == "ray" else bare(config, file))
            rows.append(row_of(name, found))
            print(rows[-1], flush=True)
    header = ["Network", "1 worker, ms", "Bare loop, ms", "Ray adds"]
    header += ["2 workers, ms", "Bare loop, ms", "Ray adds", "Scaling", "Bare scaling"]
    write_section("training", f"{table(header, rows)}\n\n{machine()}.")


def row_of(name: str, found: dict[tuple[int, str], list[float]]) -> list[str]:
    """Return medians, and medians of what differs between neighbours in time."""
    row = [name]
    for workers in (1, 2):
        ours, theirs = found[workers, "ray"], found[workers, "bare"]
        added = median(our / their - 1 for our, their in zip(ours, theirs, strict=True))
        row += [f"{1000 * median(ours):.0f}", f"{1000 * median(theirs):.0f}", f"{added:+.1%}"]
    for way in ("ray", "bare"):
        one, two = found[1, way], found[2, way]
        row.append(f"{median(2 * a / b for a, b in zip(one, two, strict=True)):.2f}x")
    return row
