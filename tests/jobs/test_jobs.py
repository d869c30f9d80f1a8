"""The jobs as a person runs them: their words, real files, real output."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem != "__init__")
WITH_PRESETS = ("make_shards", "train_spn", "tune")


@pytest.mark.parametrize("name", JOBS)
def test_help_gives_the_command(name, run_job):
    result = run_job(name, "--help")
    assert result.returncode == 0, result.stderr
    assert f"python jobs/{name}.py" in result.stdout


def test_a_reader_who_leaves_early_is_not_an_error():
    """In a process of its own, which a pipe ends."""
    command = f"{sys.executable} {ROOT / 'jobs' / 'train_spn.py'} smoke --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("The preset 'smoke': Bundled photographs, 32 px")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("preset", "field"),
    [("make_shards folder", "--source"), ("train_spn smoke", "--model."), ("tune spn", "--space")],
)
def test_a_presets_help_explains_its_fields(preset, field, run_job):
    result = run_job(*preset.split(), "--help")
    assert result.returncode == 0, result.stderr
    assert field in result.stdout


@pytest.mark.parametrize("name", WITH_PRESETS)
def test_an_unknown_preset_is_reported_with_those_there_are(name, run_job):
    result = run_job(name, "smokee")
    assert result.returncode == 2
    assert "unknown preset 'smokee'" in result.stderr
    assert "The presets are:" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        ("train_spn", ["smoke", "--model.num-blokcs", "3"], "--model.num-bl"),
        ("train_spn", ["smoke", "--steps", "0"], "steps must be at least 1"),
        ("train_spn", ["smoke", "--num-workers", "3"], "multiple of num_workers"),
        ("make_shards", ["folder", "--quality", "0"], "quality is 0"),
    ],
)
def test_a_wrong_field_or_value_is_refused_without_a_traceback(name, words, sentence, run_job):
    result = run_job(name, *words)
    assert result.returncode == 2
    assert sentence in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        ("train_spn", ["demo"], "no shards given: add --data.shards"),
        ("train_spn", ["demo", "--data.shards", "nowhere"], "nowhere is not a finished shard set"),
        ("tune", ["spn", "--space", "nothing"], "unknown space 'nothing'"),
        ("make_shards", ["folder"], "give the folder of photographs with --source"),
        ("make_shards", ["folder", "--source", "nowhere"], "nowhere"),
        ("evaluate", ["--checkpoint", "nowhere", "--shards", "nowhere"], "nowhere"),
        ("promote", ["--checkpoint", "./nowhere"], "nowhere is not a checkpoint"),
        ("serve", ["--model", "./nowhere"], "nowhere is not a checkpoint"),
    ],
)
def test_a_mistake_ends_in_one_sentence(name, words, sentence, tmp_path, run_job, ray_local):
    result = run_job(name, *words, cwd=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stdout
