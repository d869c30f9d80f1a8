"""Searches on clusters of their own: a node that is lost, GPUs that are shared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infill.pipeline import checkpoints
from infill.pipeline.config import override, to_json

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.mark.timeout(900)
def test_a_lost_node_does_not_end_the_search(config, tmp_path):
    changes = {"storage": str(tmp_path / "sweep"), "train.steps": 120, "train.save_every_steps": 5}
    search = override(config, {**changes, "train.cpus_per_worker": 1.0})
    (tmp_path / "config.json").write_text(to_json(search))
    script = Path(__file__).with_name("losing_a_node.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "config.json")],
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *said, last = done.stdout.splitlines()
    assert "lost" in said
    assert not any(line.startswith("trial ") for line in said[: said.index("lost")])
    trials = json.loads(last)
    assert len(trials) == 2
    for trial in trials:
        assert not trial["error"]
        assert trial["steps"] == 120
        assert checkpoints.read_state(trial["checkpoint"])["step"] <= 120
    # The trial that was there went on where it was: no step was taken twice.
    runs = [Path(trial["checkpoint"]).parent.parent for trial in trials]
    logs = [sorted(run.glob("progress-*.jsonl")) for run in runs]
    assert max(len(files) for files in logs) == 2


PACKED = """
import json, sys, time
from pathlib import Path
import ray
from infill.pipeline.config import from_json
from infill.pipeline.tuning import TuneConfig
from infill.pipeline.tuning.ray_tuner import run_tuner
from infill.pipeline.training import SCORE
from ray.tune import Callback

begun = Path(sys.argv[2])

def trial(settings):
    from ray import tune
    begin = time.time()
    (begun / str(settings["number"])).touch()
    while len(list(begun.iterdir())) < 2 and time.time() < begin + 600:
        time.sleep(0.05)
    share = ray.get_runtime_context().get_assigned_resources()["GPU"]
    tune.report({SCORE: 1.0, "begin": begin, "end": time.time(), "share": share})

ray.init(
    address="local", num_cpus=8, num_gpus=1, log_to_driver=False, include_dashboard=False
)
config = from_json(TuneConfig, open(sys.argv[1]).read())
space = {"number": ray.tune.grid_search(list(range(5)))}
results = run_tuner(config, trial, space, Callback())
print(json.dumps([[r.metrics[name] for name in ("begin", "end", "share")] for r in results]))
ray.shutdown()
"""


@pytest.mark.timeout(900)
def test_trials_share_a_gpu_and_none_waits_for_ever(config, tmp_path):
    """On a Ray that believes it has one GPU and room for more trials on its CPUs."""
    changes = {"storage": str(tmp_path / "packed"), "gpus_per_trial": 0.5, "concurrent_trials": 4}
    (tmp_path / "config.json").write_text(to_json(override(config, changes)))
    begun = tmp_path / "begun"
    begun.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PACKED, str(tmp_path / "config.json"), str(begun)],
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    times = json.loads(done.stdout.splitlines()[-1])
    assert len(times) == 5
    assert [share for *_, share in times] == [0.5] * 5  # For a third one Ray has no more.
    at_once = [sum(b <= moment < e for b, e, _ in times) for moment, *_ in times]
    assert max(at_once) == 2
