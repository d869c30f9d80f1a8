"""Evaluation: what an actor's time is spent on, for the cpu presets on one core.

make bench ONLY=evaluation
SIDES=64 NETWORKS=lama,madf make bench ONLY=evaluation

The floor is the network's own time: whatever else takes is overhead. The networks are untrained,
which costs the same. Pairs are drawn on the photographs that installed packages carry.
"""

import importlib
import os
from dataclasses import replace
from pathlib import Path

import torch
from bench_data import job
from pages import machine, table, write_section

from models.architecture import load
from pipeline import checkpoints
from pipeline.config import to_dict
from pipeline.evaluation import EvaluationConfig
from pipeline.evaluation.launch import prepare
from pipeline.evaluation.scorer import STAGES, Scorer
from pipeline.launching import FREE_FORM

NAMES = os.environ.get("NETWORKS", "pennet,madf,deepgin,spn,deepfill,deepfill2,lama").split(",")
SIDES = [int(side) for side in os.environ.get("SIDES", "64,256").split(",")]
BATCH, WARM, ROUNDS = 8, 2, 5
HEADER = ["Network", "Side, px", "Network, ms", "Metrics, ms", "Reading, ms", "Metrics / network"]


def untrained(name: str, folder: Path) -> str:
    """Write the cpu preset's network, untrained, as a checkpoint."""
    preset = importlib.import_module(f"jobs.train_{name}").PRESETS["cpu"]
    values = {"model": to_dict(preset.model), "data": to_dict(preset.data)}
    torch.manual_seed(0)
    generator = load(name).generator(preset.model)
    checkpoints.export(
        str(folder / name), {"generator": generator.state_dict()}, values, {"step": 0}
    )
    return str(folder / name)


def milliseconds(config: EvaluationConfig) -> dict[str, float]:
    """Return the least time of each stage over several batches, in milliseconds a pair."""
    plan = prepare(config)
    scorer = Scorer(plan.config, plan.pairs.image_size_px, plan.parts)
    seen: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for turn in range(WARM + ROUNDS):
        scorer.seconds = dict.fromkeys(STAGES, 0.0)
        scorer.measure(scorer.fill(range(turn * BATCH, (turn + 1) * BATCH)))
        for stage, took in scorer.seconds.items():
            seen[stage].append(took)
    return {stage: 1e3 * min(took[WARM:]) / BATCH for stage, took in seen.items()}


def test_evaluation(tmp_path: Path) -> None:
    shards = {}
    for side in SIDES:
        out = str(tmp_path / f"shards{side}")
        job("make_shards", "bundled", "--out", out, "--crop-size-px", str(side))
        shards[side] = f"{out}/train"
    rows = []
    for name in NAMES:
        checkpoint = untrained(name, tmp_path)
        for side in SIDES:
            config = EvaluationConfig(
                checkpoint=checkpoint,
                shards=shards[side],
                out=str(tmp_path / "out"),
                masks=replace(FREE_FORM, curriculum_steps=0),
                buckets=((0.1, 0.2), (0.2, 0.3), (0.3, 0.4)),
                image_size_px=side,
                baselines=(),
                batch_size=BATCH,
                num_actors=0,
            )
            spent = milliseconds(config)
            network, metrics = spent["network_s"], spent["metrics_s"]
            figures = [f"{network:.2f}", f"{metrics:.2f}", f"{spent['reading_s']:.2f}"]
            rows.append([name, str(side), *figures, f"{metrics / network:.1%}"])
            print(" | ".join(rows[-1]), flush=True)
    write_section("evaluation", f"{machine()}, one thread.\n\n{table(HEADER, rows)}")
