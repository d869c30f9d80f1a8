"""One shard, in this process: made from its range of the list, taken as it is, or made again."""

import errno
import hashlib
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infill.pipeline.errors import RejectedError, UserError
from infill.pipeline.sharding.config import ShardConfig
from infill.pipeline.sharding.listing import FILE_NAME, Shares, read_range, write_listings
from infill.pipeline.sharding.shard_writer import (
    _read,
    _read_labels,
    make_shard,
    read_record,
    shard_digest,
)
from infill.pipeline.sources import open_source
from infill.pipeline.sources.original import Original


def write_picture(path: Path, seed: int, side: int = 80) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def listed(config: ShardConfig) -> None:
    """Write the list of the training split anew."""
    folder = Path(config.out, "train")
    folder.mkdir(parents=True, exist_ok=True)
    originals = open_source(config.kind, config.source).originals()
    shares = Shares(val=0.0, test=0.0, seed=0)
    write_listings(originals, shares, config.photographs_per_shard, folder)
    (folder / "train.parquet").rename(folder / FILE_NAME)


@pytest.fixture
def config(tmp_path: Path) -> ShardConfig:
    """Return the settings of two shards of two and one pictures, listed."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        write_picture(source / f"p{number}.png", number)
    config = ShardConfig(
        kind="folder",
        source=str(source),
        out=str(tmp_path / "out"),
        photographs_per_shard=2,
        val_share=0.0,
        test_share=0.0,
    )
    listed(config)
    return config


def tar_of(config: ShardConfig, number: int) -> Path:
    return Path(config.out, "train", f"shard-{number:06d}.tar")


def test_record_says_what_the_tar_holds(config: ShardConfig) -> None:
    for number, count in ((0, 2), (1, 1)):
        record, was_there = make_shard(config, "train", number)
        assert not was_there
        data = tar_of(config, number).read_bytes()
        assert record.shard.name == tar_of(config, number).name
        assert record.shard.size == len(data)
        assert record.shard.sha256 == hashlib.sha256(data).hexdigest()
        assert record.shard.samples == record.photographs == len(record.rows) == count
        assert record.quarantined == []
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names = tar.getnames()
            members = {name: tar.extractfile(name).read() for name in names}
        for row in record.rows:
            original = Path(config.source, row["source"]).read_bytes()
            assert data[row["offset"] : row["offset"] + row["size"]] == original
            assert members[f"{row['key']}.{row['suffix']}"] == original
            assert row["sha256"] == hashlib.sha256(original).hexdigest()
            assert (row["height_px"], row["width_px"], row["shard"]) == (80, 96, number)
            assert json.loads(members[f"{row['key']}.json"]) == {
                "source": row["source"],
                "crop": None,
                "height_px": 80,
                "width_px": 96,
            }
            assert 0 <= row["perceptual_hash"] < 2**64
        assert names == [
            f"{row['key']}.{suffix}" for row in record.rows for suffix in (row["suffix"], "json")
        ]
        sizes = [Path(config.source, row["source"]).stat().st_size for row in record.rows]
        assert record.bytes_read == sum(sizes)
        assert record.digest == shard_digest(
            config, read_range(str(Path(config.out, "train")), number)
        )
        assert read_record(str(Path(config.out, "train")), number) == record


def test_label_map_has_the_path_of_its_picture_or_the_longest_end_of_it(
    config: ShardConfig, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    for name, seed in (
        ("p0.png", 7),
        ("p2.png", 6),
        ("a/b/p1.png", 8),
        ("b/p1.png", 9),
        ("p1.png", 10),
    ):
        (labels / name).parent.mkdir(parents=True, exist_ok=True)
        write_picture(labels / name, seed)
    found = _read_labels(str(labels), "a/b/p1.jpeg")
    assert found == (labels / "a" / "b" / "p1.png").read_bytes()
    assert _read_labels(str(labels), "x/b/p1.jpg") == (labels / "b" / "p1.png").read_bytes()
    assert _read_labels(str(labels), "a/x/p1.jpg") == (labels / "p1.png").read_bytes()
    for missing in ("p9.jpg", "a/b/p0.v2.png"):
        with pytest.raises(RejectedError, match=f"has no label map .*{labels}"):
            _read_labels(str(labels), missing)
    (labels / "p3.png").mkdir()
    with pytest.raises(RejectedError, match=r"its label map p3\.png: "):
        _read_labels(str(labels), "p3.jpg")
    record, _ = make_shard(replace(config, labels=str(labels)), "train", 0)
    data = tar_of(config, 0).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as members:
        for row in record.rows:
            member = members.extractfile(f"{row['key']}.labels.png").read()
            assert row["label_size"] == len(member)
            assert data[row["label_offset"] :][: len(member)] == member
            assert row["label_sha256"] == hashlib.sha256(member).hexdigest()
        key = record.rows[0]["key"]
        stored = members.extractfile(f"{key}.labels.png")
        assert stored is not None
        written = np.asarray(Image.open(io.BytesIO(stored.read())))
        expected = np.asarray(Image.open(labels / record.rows[0]["source"]))
        np.testing.assert_array_equal(written, expected)


def test_finished_shard_is_taken_as_it_is(config: ShardConfig) -> None:
    record, _ = make_shard(config, "train", 0)
    written = tar_of(config, 0).stat().st_mtime_ns
    assert make_shard(config, "train", 0) == (record, True)
    assert tar_of(config, 0).stat().st_mtime_ns == written


def test_shard_that_is_not_what_its_record_says_is_made_again(config: ShardConfig) -> None:
    record, _ = make_shard(config, "train", 0)
    tar, notes = tar_of(config, 0), Path(config.out, "train", "_record-000000.json")
    sound, said = tar.read_bytes(), notes.read_bytes()
    damaged = bytearray(sound)
    damaged[len(damaged) // 2] ^= 1

    def damage_tar(data: bytes) -> None:
        tar.write_bytes(data)

    for damage in (
        lambda: damage_tar(bytes(damaged)),
        lambda: damage_tar(sound[:-512]),
        lambda: damage_tar(sound + bytes(512)),
        tar.unlink,
        notes.unlink,
        lambda: notes.write_bytes(said[:-9]),
        lambda: notes.write_text("[]"),
        lambda: notes.write_text("{}"),
        lambda: notes.write_bytes(said.replace(record.digest.encode(), b"0" * 64)),
    ):
        damage()
        assert make_shard(config, "train", 0) == (record, False)
        assert tar.read_bytes() == sound
        assert notes.read_bytes() == said


def test_shard_of_other_settings_or_another_list_is_made_again(config: ShardConfig) -> None:
    first, _ = make_shard(config, "train", 1)
    cropped, was_there = make_shard(replace(config, crop_size_px=32), "train", 1)
    assert not was_there
    assert cropped.digest != first.digest
    assert len(cropped.rows) == 6
    assert {row["source"] for row in cropped.rows} == {first.rows[0]["source"]}
    assert len({row["key"] for row in cropped.rows}) == 6
    assert cropped.photographs == 1
    again, was_there = make_shard(config, "train", 1)
    assert (again, was_there) == (first, False)


def test_folder_that_moved_is_the_same_source(config: ShardConfig, tmp_path: Path) -> None:
    record, _ = make_shard(config, "train", 0)
    moved = tmp_path / "moved"
    Path(config.source).rename(moved)
    config = replace(config, source=str(moved))
    listed(config)
    assert make_shard(config, "train", 0) == (record, True)


def test_original_that_cannot_be_read_is_quarantined_until_it_is_mended(
    config: ShardConfig,
) -> None:
    bad = Path(config.source, "p1.png")
    sound = bad.read_bytes()
    bad.write_bytes(b"\0" * len(sound))
    record, _ = make_shard(config, "train", 0)
    assert [item.source for item in record.quarantined] == ["p1.png"]
    assert record.quarantined[0].reason
    assert [row["source"] for row in record.rows] == ["p0.png"]
    assert (record.photographs, record.shard.samples) == (2, 1)
    assert record.bytes_read == len(sound) + Path(config.source, "p0.png").stat().st_size
    assert make_shard(config, "train", 0) == (record, True)
    bad.write_bytes(sound[:300].ljust(len(sound), b"\0"))
    worse, was_there = make_shard(config, "train", 0)
    assert not was_there
    assert worse.quarantined[0].reason != record.quarantined[0].reason
    bad.write_bytes(sound)
    mended, was_there = make_shard(config, "train", 0)
    assert not was_there
    assert mended.quarantined == []
    assert [row["source"] for row in mended.rows] == ["p0.png", "p1.png"]


@pytest.mark.parametrize("found", ["gone", "7 bytes"])
def test_source_that_changes_under_the_job_ends_it(config: ShardConfig, found: str) -> None:
    original = Path(config.source, "p2.png")
    size = original.stat().st_size
    if found == "gone":
        original.unlink()
    else:
        original.write_bytes(b"changed")
    with pytest.raises(UserError) as refused:
        make_shard(config, "train", 1)
    assert str(refused.value) == (
        f"p2.png had {size} bytes when it was listed and now is {found}: "
        "the source is changing; run the same command again when it no longer changes"
    )
    left = {name for name in os.listdir(Path(config.out, "train")) if not name.endswith(".parquet")}
    assert left == set()


def test_more_pictures_than_are_prepared_ahead_keep_their_order(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(23):
        write_picture(source / f"p{number:02}.png", number, side=70)
    config = ShardConfig(
        kind="folder", source=str(source), out=str(tmp_path / "out"), photographs_per_shard=23
    )
    listed(config)
    record, _ = make_shard(config, "train", 0)
    assert [row["source"] for row in record.rows] == [f"p{number:02}.png" for number in range(23)]


@pytest.mark.parametrize("size", [7, 0])  # A file of size 0 may be a link.
def test_one_original_that_cannot_be_read_is_refused_and_a_failing_store_ends_the_job(
    config: ShardConfig, size: int
) -> None:
    class Failing:
        def __init__(self, error: OSError) -> None:
            self.error = error

        def read(self, original: Original) -> bytes:
            raise self.error

    row = {**read_range(str(Path(config.out, "train")), 0)[0], "size": size}
    gone = FileNotFoundError(errno.ENOENT, "gone", "a.png")
    assert _read(Failing(gone), row) is gone
    with pytest.raises(RejectedError, match="permission denied"):
        _read(Failing(PermissionError(errno.EACCES, "no")), row)
    with pytest.raises(RejectedError, match="circle"):
        _read(Failing(OSError(errno.ELOOP, "loop", "a.png")), row)
    with pytest.raises(OSError, match="disk"):
        _read(Failing(OSError(errno.EIO, "disk")), row)
