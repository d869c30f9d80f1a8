import hashlib
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.manifest import SAMPLE_SCHEMA, Manifest, ShardRecord, read_manifest
from infill.pipeline.sharding import ShardConfig, make_shards
from infill.pipeline.sharding.tar_writer import TarWriter
from infill.pipeline.sharding.verify import Damage, check_shard, repair, verify

pytestmark = pytest.mark.usefixtures("ray_local")


def quiet(line: str) -> None:
    assert line


@pytest.fixture
def sets(photographs: str, tmp_path: Path) -> Path:
    source = shutil.copytree(photographs, tmp_path / "source")
    settings = ShardConfig(
        source=str(source),
        out=str(tmp_path / "out"),
        photographs_per_shard=2,
        resize_short_side_px=64,
        format="png",
    )
    make_shards(settings, quiet)
    return tmp_path / "out"


def checksums(out: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.tar")}


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def test_whole_sets_are_proved_true(sets: Path) -> None:
    lines: list[str] = []
    assert verify(str(sets), lines.append) == []
    assert lines[0] == "verification: 0 of 5 shards"
    assert lines[-1] == "read 5 shards with 8 samples again: 0 damaged"


def test_every_kind_of_damage_is_found_named_and_mended(sets: Path) -> None:
    before, manifest = checksums(sets), read_manifest(str(sets / "train"))
    row = manifest.row(1)
    flip(sets / "train" / "shard-000000.tar", row["offset"] + row["size"] // 2)
    flip(sets / "train" / "shard-000001.tar", 100)  # in a header
    (sets / "train" / "shard-000002.tar").unlink()
    whole = (sets / "val" / "shard-000000.tar").read_bytes()
    (sets / "val" / "shard-000000.tar").write_bytes(whole[:-512])
    damages = verify(str(sets), quiet)
    assert damages == [
        Damage(split="train", number=0, what=f"has 1 damaged samples, the first {row['key']}"),
        Damage(split="train", number=1, what="is damaged between its samples"),
        Damage(split="train", number=2, what="is missing"),
        Damage(
            split="val",
            number=0,
            what=f"has {len(whole) - 512} bytes, the manifest says {len(whole)}",
        ),
    ]
    untouched = sets / "test" / "shard-000000.tar"
    time = untouched.stat().st_mtime_ns
    lines: list[str] = []
    repair(str(sets), damages, lines.append)
    assert "train/shard-000002.tar is repaired" in lines
    assert len([line for line in lines if "is repaired" in line]) == 4
    assert checksums(sets) == before
    assert untouched.stat().st_mtime_ns == time
    assert verify(str(sets), quiet) == []


def test_shard_of_changed_originals_is_not_taken_for_repaired(sets: Path, tmp_path: Path) -> None:
    damaged = sets / "train" / "shard-000000.tar"
    source = read_manifest(str(sets / "train")).row(0)["source"]
    damaged.unlink()
    flip(tmp_path / "source" / source, 40)  # the same size, in a table of the JPEG
    with pytest.raises(UserError, match="differs from the original shard"):
        repair(str(sets), [Damage(split="train", number=0, what="is missing")], quiet)
    assert [damage.number for damage in verify(str(sets), quiet)] == [0]


def test_set_without_its_list_says_how_to_bring_it_back(sets: Path) -> None:
    (sets / "train" / "_listing.parquet").unlink()
    with pytest.raises(UserError, match="has lost _listing.parquet"):
        repair(str(sets), [Damage(split="train", number=0, what="is missing")], quiet)


def test_one_set_is_refused_with_the_folder_to_give(sets: Path) -> None:
    with pytest.raises(UserError, match=f"is one set: give the folder that holds it, {sets}$"):
        verify(str(sets / "train"), quiet)


def test_place_without_sets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished shard sets"):
        verify(str(tmp_path), quiet)


def test_sample_of_an_earlier_release_that_trainings_cannot_decode_is_damage(
    tmp_path: Path,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8)
    whole = cv2.imencode(".png", noise)[1].tobytes()
    samples = {"good": whole, "cut": whole[:-30]}
    rows = []
    with open(tmp_path / "shard-000000.tar", "wb") as stream:
        writer = TarWriter(stream)
        for key, data in samples.items():
            place = {"shard": 0, "offset": writer.add(f"{key}.png", data), "size": len(data)}
            facts = {"key": key, "source": f"{key}.png", "suffix": "png"}
            shape = {"height_px": 70, "width_px": 80, "sha256": hashlib.sha256(data).hexdigest()}
            rows.append({**facts, **place, **shape})
        writer.close()
    record = ShardRecord(
        name="shard-000000.tar", samples=2, size=writer.size, sha256=writer.checksum.hexdigest()
    )
    manifest = Manifest(
        location=str(tmp_path),
        samples=pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA),
        shards=(record,),
        quarantined=(),
        settings={},
    )
    assert check_shard(manifest, 0) == "has 1 damaged samples, the first cut"
