"""Evaluation: an actor's time by stage, for the cpu presets on one core.

make bench ONLY=evaluation
SIDES=64 NETWORKS=lama,madf make bench ONLY=evaluation

The floor is the network's own time: whatever else takes is overhead. The networks are untrained,
which costs the same. Pairs come from the photographs that installed packages carry.
"""

import importlib
import os
from dataclasses import replace
from pathlib import Path

import torch
from bench_data import job
from pages import machine, table, write_section

from infill.models.architecture import load
from infill.pipeline import checkpoints
from infill.pipeline.cluster import connect
from infill.pipeline.config import to_dict
from infill.pipeline.evaluation import EvaluationConfig, evaluate
from infill.pipeline.train_cli import FREE_FORM

NAMES = os.environ.get("NETWORKS", "pennet,madf,deepgin,spn,deepfill,deepfill2,lama").split(",")
SIDES = [int(side) for side in os.environ.get("SIDES", "64,256").split(",")]
PAIRS = {64: 600, 256: 96}
HEADER = ["Network", "Side, px", "Network, ms", "Metrics, ms", "Reading, ms", "Metrics / network"]


def untrained(name: str, folder: Path) -> str:
    """Write the cpu preset's network, untrained, as a checkpoint."""
    preset = importlib.import_module(f"infill.jobs.train_{name}").PRESETS["cpu"]
    values = {"model": to_dict(preset.model), "data": to_dict(preset.data)}
    torch.manual_seed(0)
    generator = load(name).generator(preset.model)
    checkpoints.export(
        str(folder / name), {"generator": generator.state_dict()}, values, {"step": 0}
    )
    return str(folder / name)


def milliseconds(config: EvaluationConfig) -> dict[str, float]:
    """Evaluate in an actor, and return the time of each stage, in milliseconds per pair."""
    evaluation = evaluate(config, report=lambda line: None)
    return {stage: 1e3 * took / evaluation.data["pairs"] for stage, took in evaluation.cost.items()}


def test_evaluation(tmp_path: Path) -> None:
    shards = {}
    for side in SIDES:
        out = str(tmp_path / f"shards{side}")
        job("make_shards", "bundled", "--out", out, "--crop-size-px", str(side))
        shards[side] = f"{out}/train"
    rows = []
    cases = [(name, untrained(name, tmp_path), side) for name in NAMES for side in SIDES]
    with connect():
        for name, checkpoint, side in cases:
            config = EvaluationConfig(
                checkpoint=checkpoint,
                shards=shards[side],
                out=str(tmp_path / f"{name}-{side}"),
                masks=replace(FREE_FORM, curriculum_steps=0),
                buckets=((0.1, 0.2), (0.2, 0.3), (0.3, 0.4)),
                image_size_px=side,
                baselines=(),
                num_images=PAIRS[side] // 3,
                num_actors=1,
            )
            spent = milliseconds(config)
            network, metrics = spent["network_s"], spent["metrics_s"]
            figures = [f"{network:.2f}", f"{metrics:.2f}", f"{spent['reading_s']:.2f}"]
            rows.append([name, str(side), *figures, f"{metrics / network:.1%}"])
            print(" | ".join(rows[-1]), flush=True)
    write_section("evaluation", f"{machine()}, one thread.\n\n{table(HEADER, rows)}")
