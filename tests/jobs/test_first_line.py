"""The first line of every long job, before anything slow is imported; refusals before Ray."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from infill.pipeline import checkpoints

ROOT = Path(__file__).parents[2]
TRAININGS = {
    path.stem: ("shards", ["smoke", "--data.shards", "shards", "--data.source", ""])
    for path in sorted((ROOT / "jobs").glob("train_*.py"))
}
COMMANDS = TRAININGS | {
    "batch_inpaint": ("photos", ["photos", "out", "--masks", "masks"]),
    "choose": ("search", ["--search", "search", "--shards", "shards"]),
    "compare": ("one, two", ["--evaluations", "one", "two"]),
    "evaluate": ("run", ["--checkpoint", "run", "--shards", "shards", "--metrics", "vif"]),
    "explain": ("photo.png", ["--checkpoint", "run", "--image", "photo.png"]),
    "export_weights": ("run", ["--checkpoint", "run", "--out", "exported"]),
    "import_weights": ("pennet", ["pennet", "--from", "gen.pth"]),
    "inpaint": ("infill-base", ["photo.png", "mask.png"]),
    "inspect_shards": ("shards", ["--shards", "shards"]),
    "make_shards": ("bundled", ["bundled", "--out", "shards"]),
    "plan": ("spn", ["spn-cpu", "--images", "100"]),
    "promote": ("run", ["--checkpoint", "run", "--scores", "scores"]),
    "serve": ("service", ["--model", "run"]),
    "study": ("one, two", ["--evaluations", "one", "two", "--out", "study"]),
    "tune": ("lambdas", ["spn", "--space", "lambdas", "--train.data.shards", "shards"]),
    "verify_shards": ("shards", ["--shards", "shards"]),
}
"""For each job: what its first line names, and the words of its command line."""
SHORT = {"demo", "make_key"}
"""The job that takes less than a second, and the demo, whose stages speak for themselves."""
UNTIL_SLOW = """
import contextlib, importlib, io, json, sys

class Slow(BaseException):
    pass

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "ray", "mlflow", "uvicorn"):
            raise Slow(name)

sys.meta_path.insert(0, Refuses())
shown = {}
for job, words in json.loads(sys.argv[1]).items():
    main = importlib.import_module(f"infill.jobs.{job}").main
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main(words)
        except (Slow, ValueError) as error:
            pass
    shown[job] = out.getvalue()
print(json.dumps(shown))
"""


def test_every_job_is_either_long_or_short():
    jobs = {path.stem for path in (ROOT / "jobs").glob("[!_]*.py")}
    assert jobs == {*COMMANDS, *SHORT}


def test_the_first_line_comes_before_pytorch_and_ray_are_imported(tmp_path):
    words = {job: words for job, (_, words) in COMMANDS.items()}
    done = subprocess.run(
        [sys.executable, "-c", UNTIL_SLOW, json.dumps(words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = json.loads(done.stdout)
    for job, (named, _) in COMMANDS.items():
        assert shown[job].strip(), f"{job} is silent"
        assert named in shown[job].splitlines()[0]


REFUSED_FIRST = """
import importlib, json, sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "ray"):
            raise SystemError(f"{name} is imported")

sys.meta_path.insert(0, Refuses())
main = importlib.import_module("infill.jobs.evaluate").main
for words in json.loads(sys.argv[1]):
    try:
        main(["--checkpoint", "run", "--shards", "shards", *words])
    except (ValueError, SystemExit) as error:
        print(error, file=sys.stderr)
"""


def test_metrics_protocols_and_weights_of_an_evaluation_are_refused_before_pytorch(tmp_path):
    missing = str(tmp_path / "inception.pth")
    refused = {
        "unknown metric 'ms_sim'": ["--metrics", "ms_sim"],
        "unknown protocol 'madf'": ["--protocol", "madf"],
        "madf-places2 decides metrics": ["--protocol", "madf-places2", "--metrics", "vif"],
        "give both lpips_backbone and lpips_linear": ["--networks.lpips-linear", missing],
        f"there is no file {missing}": ["--networks.inception", missing],
    }
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_FIRST, json.dumps(list(refused.values()))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    said = " ".join(done.stderr.replace("│", " ").split())
    for sentence in refused:
        assert sentence in said


PAUSES_AT_WORK = """
import os, signal, sys
from pathlib import Path

class Pauses:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "ray", "mlflow", "uvicorn"):
            Path(os.environ["AT_WORK"]).touch()
            signal.pause()

sys.meta_path.insert(0, Pauses())
"""
JOBS_OF_A_TERMINAL = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

signal.signal(signal.SIGINT, lambda number, frame: None)
started = {}
for job, words in json.loads(Path(sys.argv[2]).read_text()).items():
    started[job] = subprocess.Popen(
        [sys.executable, f"{sys.argv[1]}/{job}.py", *words],
        stdout=subprocess.DEVNULL,
        stderr=open(f"{job}.stderr", "w"),
        env={**os.environ, "AT_WORK": f"{job}.works", "PYTHONPATH": os.getcwd()},
    )
while any(job.poll() is None and not Path(f"{n}.works").exists() for n, job in started.items()):
    time.sleep(0.02)
print("all of them are at work", flush=True)
Path("status.json").write_text(json.dumps({n: job.wait() for n, job in started.items()}))
"""


def test_ctrl_c_in_a_terminal_ends_every_job_that_is_at_work(tmp_path, on_terminal):
    """One key for the jobs of one terminal, each paused where its slow part begins."""
    words = {job: words for job, (_, words) in COMMANDS.items() if job != "verify_shards"}
    words["demo"] = []
    (tmp_path / "sitecustomize.py").write_text(PAUSES_AT_WORK)
    (tmp_path / "words.json").write_text(json.dumps(words))
    launcher = [sys.executable, "-I", "-c", JOBS_OF_A_TERMINAL, ROOT / "jobs", "words.json"]
    on_terminal(launcher, lambda printed: b"all of them are at work" in printed, tmp_path)
    status = json.loads((tmp_path / "status.json").read_text())
    said = {job: (tmp_path / f"{job}.stderr").read_text() for job in words}
    assert status == dict.fromkeys(words, 130), said
    assert set(said.values()) == {"interrupted; run the same command again to resume\n"}


def write_search(folder, checkpoint):
    """Write a search whose one trial has a checkpoint."""
    book = folder / "trials" / "one" / "trial.json"
    book.parent.mkdir(parents=True)
    scores = {"hole_psnr": 10.0}
    values = {"name": "one", "changes": {}, "seed": 0, "scores": scores, "checkpoint": checkpoint}
    book.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        (
            "train_spn",
            "smoke {tars} --data.masks.recipe files --data.masks.folder {folder}/none",
            "{folder}/none",
        ),
        ("train_spn", "smoke {tars} --storage {run} --data.image-size-px 64", "data.image_size_px"),
        ("choose", "--search {search} --shards {folder}/none", "{folder}/none is not a finished"),
        (
            "choose",
            "--search {search} --shards {folder}/none --champion nobody --registry.tracking-uri "
            "sqlite:///{folder}/mlflow.db",
            "nobody",
        ),
        (
            "tune",
            "madf --space madf-table2 --scale smoke {trials} --table.test-shards {folder}/none",
            "{folder}/none is not a shard set",
        ),
    ],
)
def test_an_input_that_does_not_fit_is_refused_before_ray_starts(
    name, words, sentence, tmp_path, untrained, run_job
):
    for index in range(2):
        tarfile.open(tmp_path / f"{index}.tar", "w").close()
    write_search(tmp_path / "search", untrained("spn"))
    shutil.copytree(untrained("spn"), checkpoints.step_location(str(tmp_path / "run"), 1))
    tars = f"{tmp_path}/{{0..1}}.tar"
    known = {
        "folder": tmp_path,
        "run": tmp_path / "run",
        "search": tmp_path / "search",
        "tars": f"--data.shards {tars} --data.source=",
        "trials": f"--train.data.shards {tars} --train.data.source=",
    }
    done = run_job(name, *words.format(**known).split(), cwd=tmp_path, ray=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert sentence.format(**known) in done.stderr
