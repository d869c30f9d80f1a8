import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.manifest import read_manifest

JOB = Path(__file__).parents[2] / "jobs" / "make_shards.py"
START_S = 120


def command(*words: str | Path) -> list[str]:
    return [sys.executable, str(JOB), *map(str, words)]


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        timeout=START_S,
        env={**os.environ, **environment},
        check=False,
    )


def checksums(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of the sets but what is private to making them."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith("_")
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["folder"], "give the folder of photographs with --source DIR"),
        (["folder", "--source", "missing"], "missing does not exist"),
        (["foldr"], "did you mean 'folder'?"),
        (["folder", "--crop-size-px", "0"], "crop_size_px is 0, expected at least 1"),
        (["folder", "--crop-sise-px", "8"], "--crop-sise-px"),
    ],
)
def test_mistake_ends_in_a_sentence_before_ray_starts(words: list[str], sentence: str) -> None:
    started = time.monotonic()
    done = run(*words, RAY_ADDRESS="127.0.0.1:1")  # nothing listens there
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert "RAY_ADDRESS" not in done.stderr
    assert time.monotonic() - started < START_S / 2


def test_help_explains_every_field() -> None:
    done = run("folder", "--help")
    assert done.returncode == 0
    for words in ("--source", "--crop-size-px", "Fail when more than this share", "--quality"):
        assert words in done.stdout


@pytest.mark.slow
def test_bundled_photographs_become_a_few_hundred_crops(tmp_path: Path) -> None:
    first = run("bundled", "--out", tmp_path / "a")
    assert first.returncode == 0, first.stderr
    sources = {
        split: set(read_manifest(str(tmp_path / "a" / split)).samples["source"].to_pylist())
        for split in ("train", "val", "test")
    }
    assert {split: len(found) for split, found in sources.items()} == {
        "train": 9,
        "val": 2,
        "test": 4,
    }
    assert len(set.union(*sources.values())) == 15
    assert len(read_manifest(str(tmp_path / "a" / "train"))) >= 200
    assert f"in {tmp_path / 'a' / 'train'}" in first.stdout
    before = checksums(tmp_path / "a")
    second = run("bundled", "--out", tmp_path / "a")
    assert second.stdout.count("reused") == 3
    assert "images/s" not in second.stdout
    assert checksums(tmp_path / "a") == before
