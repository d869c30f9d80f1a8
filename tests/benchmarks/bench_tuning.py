"""Searches: the wall time of a sweep beside its trials' training, and the cost of starting one.

make bench ONLY=tuning

Four trials of SPN's smoke network on the photographs that installed packages carry, one at a time,
so that the wall time is at least the sum of the trials' own: what is more is the search's.
"""

import os
import time
from pathlib import Path

from bench_data import job
from pages import machine, table, write_section

from infill.jobs.tune import training_of
from infill.pipeline.cluster import connect
from infill.pipeline.config import override
from infill.pipeline.tuning import TuneConfig, tune

STEPS = tuple(int(word) for word in os.environ.get("STEPS", "20 200").split())
SPACE = {"model.image_weight": [0.1, 1.0, 10.0, 100.0]}
HEADER = ["Steps", "Trials", "Wall, s", "Sum of training, s", "Overhead", "Start of a trial, s"]


def test_overhead(tmp_path: Path) -> None:
    job("make_shards", "demo", "--out", str(tmp_path / "shards"))
    rows = []
    with connect():
        for steps in STEPS:
            training = override(
                training_of("spn", "smoke"),
                {
                    "data.shards": str(tmp_path / "shards"),
                    "data.source": "",
                    "steps": steps,
                    "save_every_steps": steps,
                    "sample_every_steps": steps,
                    "tracking.tracking_uri": "",
                },
            )
            search = TuneConfig(
                train=training, storage=str(tmp_path / f"sweep-{steps}"), concurrent_trials=1
            )
            begin = time.monotonic()
            result = tune(search, SPACE, lambda line: None)
            wall = time.monotonic() - begin
            trained = sum(trial.seconds for trial in result.trials)
            count = len(result.trials)
            rows.append(
                [
                    str(steps),
                    str(count),
                    f"{wall:.1f}",
                    f"{trained:.1f}",
                    f"{wall / trained - 1:+.0%}",
                    f"{(wall - trained) / count:.1f}",
                ]
            )
            print(" | ".join(rows[-1]), flush=True)
    write_section("tuning", f"{machine()}.\n\n{table(HEADER, rows)}")
