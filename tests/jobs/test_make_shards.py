import hashlib
from pathlib import Path

import pytest

from infill.pipeline.manifest import read_manifest


def checksums(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every public file of the sets."""
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
def test_mistake_ends_in_a_sentence_before_ray_starts(
    words: list[str], sentence: str, run_job, tmp_path: Path
) -> None:
    done = run_job("make_shards", *words, cwd=tmp_path, ray=False)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert "RAY_ADDRESS" not in done.stderr


def test_help_explains_every_field(run_job) -> None:
    done = run_job("make_shards", "folder", "--help")
    assert done.returncode == 0
    for words in ("--source", "--crop-size-px", "Maximum share of quarantined images", "--quality"):
        assert words in done.stdout


@pytest.mark.slow
def test_bundled_photographs_become_a_few_hundred_crops(
    tmp_path: Path, ray_local: None, run_job
) -> None:
    first = run_job("make_shards", "bundled", "--out", tmp_path / "a")
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
    second = run_job("make_shards", "bundled", "--out", tmp_path / "a")
    assert second.stdout.count("reused") == 3
    assert "images/s" not in second.stdout
    assert checksums(tmp_path / "a") == before
