from pathlib import Path

import pytest

from infill.pipeline.sharding import ShardConfig, make_shards


def test_folder_without_sets_ends_in_a_sentence(tmp_path: Path, run_job) -> None:
    done = run_job("verify_shards", "--shards", tmp_path, ray=False)
    assert done.returncode == 1
    assert "holds no finished shard sets" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_damage_is_reported_then_repaired_and_leaks_are_named(
    photographs: str, tmp_path: Path, ray_local: None, run_job
) -> None:
    source = tmp_path / "source"
    for split in ("train", "test"):  # the same photograph in both: a leak
        (source / split).mkdir(parents=True)
        for name in ("picture0.jpg", "picture1.jpg")[: 2 if split == "train" else 1]:
            (source / split / name).write_bytes((Path(photographs) / name).read_bytes())
    make_shards(ShardConfig(source=str(source), out=str(tmp_path / "out")), lambda line: None)
    tar = tmp_path / "out" / "train" / "shard-000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:9000] + b"?" + whole[9001:])
    damaged = run_job("verify_shards", "--shards", tmp_path / "out")
    assert damaged.returncode == 1
    assert "train: shard 0 has 1 damaged samples" in damaged.stdout
    assert "repair them with --repair" in damaged.stderr
    assert "test: 1 of 1 samples look like one of train" in damaged.stdout
    assert "test/picture0 looks like train/picture0: 0 of 64 bits differ" in damaged.stdout
    mended = run_job("verify_shards", "--shards", tmp_path / "out", "--repair")
    assert mended.returncode == 0, mended.stderr
    assert "train/shard-000000.tar is repaired" in mended.stdout
    inspect = f"python jobs/inspect_shards.py --shards {tmp_path}/out/train"
    assert mended.stdout.endswith(f"next:\n  {inspect}\n")
    assert tar.read_bytes() == whole
