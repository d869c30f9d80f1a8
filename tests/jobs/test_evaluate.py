import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jobs import evaluate as job
from models.architecture import load
from pipeline import checkpoints
from pipeline.batches import BatchConfig
from pipeline.config import to_dict
from pipeline.shards import ShardConfig, make_shards

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    location = str(tmp_path_factory.mktemp("checkpoint") / "one")
    torch.manual_seed(1)
    architecture = load("spn")
    config = architecture.config.tiny()
    values = {"model": to_dict(config), "data": to_dict(BatchConfig(image_size_px=32))}
    networks = {"generator": architecture.generator(config).state_dict()}
    checkpoints.export(location, networks, values, {"step": 2})
    return location


@pytest.fixture(scope="module")
def test_set(photographs: str, ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("shards")
    config = ShardConfig(source=photographs, out=str(out), test_share=0.25, val_share=0.2)
    make_shards(config, report=lambda line: None)
    return str(out / "test")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "evaluate.py"), *words]
    environment = {**os.environ, "RAY_ADDRESS": "192.0.2.1:1"}  # Whoever starts Ray fails here.
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_job_prints_the_tables_and_where_everything_is(
    checkpoint, test_set, tmp_path, monkeypatch, capsys
):
    words = ["--checkpoint", checkpoint, "--shards", test_set, "--out", str(tmp_path / "out")]
    words += ["--buckets", "0.1", "0.2", "0.2", "0.3", "--masks.recipe", "box"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    job.main()
    printed = capsys.readouterr().out
    assert "| PSNR hole (dB)  |" in printed
    assert re.search(r"\| PSNR hole \(dB\) \| +0.1-0.2 \| +0.2-0.3 \| +all \|", printed)
    for name in ("spn", "mean-fill", "telea", "navier-stokes"):
        assert name in printed
    locations = [line.split()[-1] for line in printed.splitlines() if str(tmp_path) in line]
    assert len(locations) >= 7
    assert all(Path(location).exists() for location in locations)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--checkpoint", "nowhere", "--shards", "{set}"), "nowhere is no checkpoint"),
        (("--checkpoint", "{checkpoint}", "--shards", "nowhere"), "is no finished shard set"),
        (
            ("--checkpoint", "{checkpoint}", "--shards", "{set}", "--image-size-px", "4000"),
            "smaller than the crop of 4000 px",
        ),
    ],
)
def test_mistakes_end_in_one_sentence_before_ray_starts(words, complaint, checkpoint, test_set):
    ended = run(*(word.format(checkpoint=checkpoint, set=test_set) for word in words))
    assert ended.returncode == 1
    assert complaint in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--bucket", "1"), "--bucket"),
        (("--baselines", "photoshop"), "unknown baseline 'photoshop'"),
        (("--batch-size", "0"), "batch_size must be at least 1"),
    ],
)
def test_impossible_settings_are_refused_with_status_2(words, complaint):
    ended = run("--checkpoint", "c", "--shards", "s", *words)
    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_explains_every_field():
    ended = run("--help")
    assert ended.returncode == 0
    for words in (
        "--checkpoint",
        "--masks.recipe",
        "--buckets",
        "--gpus-per-actor",
        "whose newest",
    ):
        assert words in ended.stdout
