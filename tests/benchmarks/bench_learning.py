"""Learning: the scores of the cpu presets on unseen photographs, beside untrained methods.

PHOTOGRAPHS=/data/bsds500 make bench ONLY=learning

The folder's train and val photographs are trained on, together; its test photographs are filled.
Without ``PHOTOGRAPHS``, crops of those that installed packages carry stand in for both.
Runs lie in ``runs/learning`` and are gone on with; seeds are the presets' own.
"""

import importlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from bench_data import PHOTOGRAPHS, job
from pages import machine, table, write_section

from infill.pipeline import checkpoints
from infill.pipeline.cluster import connect
from infill.pipeline.config import override
from infill.pipeline.evaluation import Evaluation, EvaluationConfig, evaluate
from infill.pipeline.evaluation.scores import ALL
from infill.pipeline.progress import duration
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.train_cli import FREE_FORM
from infill.pipeline.training import TrainConfig, train

ROOT = Path(os.environ.get("LEARNING_RUNS", "runs/learning")).absolute()
NAMES = tuple(os.environ.get("ARCHITECTURES", "madf lama").split())
METRIC = "hole_psnr"
RANGES = ((0.1, 0.2), (0.2, 0.3), (0.3, 0.4))
KEPT = 100


@pytest.fixture(scope="module")
def shards() -> dict[str, str]:
    """Shard train and val together, test apart; return the sets' locations."""
    places = {"train": ROOT / "shards" / "train", "test": ROOT / "shards" / "test"}
    ROOT.mkdir(parents=True, exist_ok=True)
    if not PHOTOGRAPHS:
        job("make_shards", "demo", "--out", str(ROOT / "shards"))
        return {split: str(place) for split, place in places.items()}
    for split, folders in (("train", ("train", "val")), ("test", ("test",))):
        files = [file for folder in folders for file in sorted(Path(PHOTOGRAPHS, folder).glob("*"))]
        listed = ROOT / f"{split}.csv"
        listed.write_text("path\n" + "".join(f"{file}\n" for file in files))
        words = ["folder", "--source", str(listed), "--splits", "shares", "--val-share", "0"]
        words += ["--test-share", "0", "--photographs-per-shard", "25"]
        job("make_shards", *words, "--out", str(places[split]))
    return {split: str(place / "train") for split, place in places.items()}


def trained(name: str, shards: dict[str, str]) -> tuple[str, float]:
    """Train the preset, or go on with it; return the run and the seconds it took in all."""
    preset: TrainConfig = importlib.import_module(f"infill.jobs.train_{name}").PRESETS["cpu"]
    run, took = ROOT / name, ROOT / f"{name}.seconds.json"
    changes = {"data.shards": shards["train"], "storage": str(run), "keep_checkpoints": KEPT}
    with connect():
        result = train(
            override(preset, {**changes, "tracking": TrackingConfig(tracking_uri="")}),
        )
    parts = json.loads(took.read_text()) if took.exists() else []
    if not result.reused:
        took.write_text(json.dumps([*parts, result.seconds]))
    return str(run), sum(json.loads(took.read_text()))


def evaluated(name: str, run: str, step: int, shards: dict[str, str]) -> Evaluation:
    """Fill the test photographs under a mask of each range with the weights of a step."""
    last = step == checkpoints.steps(run)[-1]
    config = EvaluationConfig(
        checkpoint=checkpoints.step_location(run, step),
        shards=shards["test"],
        out=str(ROOT / "scores" / name / str(step)),
        masks=replace(FREE_FORM, min_hole_ratio=0.0, max_hole_ratio=1.0, hole_ratios="natural"),
        buckets=RANGES,
        crop="centre_square",
        num_actors=0,
        batch_size=50,
    )
    return evaluate(config if last else replace(config, baselines=()))


def test_bench_learning(shards: dict[str, str]) -> None:
    """Train each architecture, evaluate each of its checkpoints, write the table and the curve."""
    rows: list[list[str]] = []
    curves: list[list[str]] = []
    notes = []
    for name in NAMES:
        run, seconds = trained(name, shards)
        found = {step: evaluated(name, run, step, shards) for step in checkpoints.steps(run)}
        last = found[max(found)]
        if not rows:
            rows = [row_of(last, method) for method in last.methods[1:]]
        rows.append(row_of(last, last.network, name))
        for step, evaluation in found.items():
            score = evaluation.scores[evaluation.network][ALL][METRIC]
            curves.append([name, f"{step:,}", f"{score.mean:.2f}"])
        notes.append(f"{name}: {max(found):,} steps in {duration(seconds)}")
    header = ["Method", *(f"{low:g}-{high:g}" for low, high in RANGES), "All", "95 % interval"]
    parts = [table(header, rows), table(["Network", "Step", "Hole PSNR, dB"], curves)]
    parts.append(f"{'; '.join(notes)}. {machine()}.")
    write_section("learning", "\n\n".join(parts))


def row_of(evaluation: Evaluation, method: str, name: str = "") -> list[str]:
    """Return a method's hole PSNR in each range and over all."""
    groups = evaluation.scores[method]
    scores = [groups[group][METRIC] for group in evaluation.groups]
    last = groups[ALL][METRIC]
    interval = f"{last.low:.2f} to {last.high:.2f}"
    return [name or method, *(f"{score.mean:.2f}" for score in scores), interval]
