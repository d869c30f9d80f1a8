"""Cost estimates of jobs/plan.py beside the papers' trainings and one on this machine.

make bench ONLY=planning
"""

import importlib
import time
from dataclasses import replace

from bench_data import job
from pages import machine, table, write_section

from infill.pipeline.cluster import connect
from infill.pipeline.config import override
from infill.pipeline.cost_estimate import PEAK_TFLOPS, CostEstimateConfig, estimate_cost
from infill.pipeline.progress import duration
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.training import train

PUBLISHED = (
    # Preset, GPU, how many, hours: as the papers or their sheets print them.
    ("spn", "paris", "v100", 2, 24.0),
    ("madf", "places2", "v100", 8, 120.0),
    ("deepfill", "places2", "1080ti", 1, 120.0),
    ("deepgin", "ade20k", "2080ti", 2, 60.0),
    ("deepgin", "celebahq", "2080ti", 2, 144.0),
)
SHORT_STEPS, LONG_STEPS = 30, 400


def test_papers() -> None:
    """Hours at the least and the most share of the peak, beside those that were published."""
    rows = []
    for name, preset, gpu, count, hours in PUBLISHED:
        training = importlib.import_module(f"infill.jobs.train_{name}").PRESETS[preset]
        training = replace(training, num_workers=count)
        config = CostEstimateConfig(
            train=training, gpu=gpu, images=1, decodes_per_s=1e6, link_gbit_s=100
        )
        found = estimate_cost(config)
        at_peak = found.compute_s[0] * 0.9 * training.steps / 3600
        rows.append(
            [
                f"{name} {preset}",
                f"{count} x {gpu} ({PEAK_TFLOPS[gpu]:g} TFLOP/s)",
                f"{found.hours[0]:,.1f} to {found.hours[1]:,.0f}",
                f"{hours:,.0f}",
                f"{at_peak / hours:.0%}",
            ]
        )
    header = ["training", "GPUs", "hours planned", "hours published", "share of the peak sustained"]
    write_section("planning-papers", table(header, rows))
    print(table(header, rows))


def test_this_machine(tmp_path) -> None:
    """The hours of a longer run, estimated from a short one, beside its real hours."""
    job("make_shards", "demo", "--out", str(tmp_path / "shards"))
    rows = []
    for name in ("spn", "pennet"):
        preset = importlib.import_module(f"infill.jobs.train_{name}").PRESETS["cpu"]
        changes = {
            "data.shards": str(tmp_path / "shards"),
            "tracking": TrackingConfig(tracking_uri=""),
            "num_workers": 2,
        }
        base = override(preset, changes)
        with connect():
            short = {"steps": SHORT_STEPS, "report_every_steps": 5}
            train(override(base, {**short, "storage": str(tmp_path / f"{name}-short")}))
            long = override(base, {"steps": LONG_STEPS, "storage": str(tmp_path / f"{name}-long")})
            config = CostEstimateConfig(
                train=long, run=str(tmp_path / f"{name}-short"), cores_per_worker=1
            )
            foretold = estimate_cost(config).hours[0] * 3600
            begin = time.monotonic()
            train(long)
            took = time.monotonic() - begin
        rows.append([name, duration(foretold), duration(took), f"{foretold / took:.2f}"])
    header = [f"`cpu`, {LONG_STEPS} steps, 2 workers", "foretold", "took, start included", "ratio"]
    write_section("planning", f"{table(header, rows)}\n\n{machine()}.")
    print(table(header, rows))
