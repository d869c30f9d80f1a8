import csv
import errno
import hashlib
import json
import os
import shutil
import socket
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from infill.pipeline import storage
from infill.pipeline.error_sentences import explain
from infill.pipeline.errors import UserError
from infill.pipeline.images import kinds
from infill.pipeline.manifest import SAMPLE_SCHEMA, Manifest, read_manifest, write_manifest
from infill.pipeline.sharding import ShardConfig, listing, make_shards
from infill.pipeline.sharding.runner import Tally
from infill.pipeline.sharding.shard_writer import make_shard
from infill.pipeline.sources import Original, open_source

pytestmark = pytest.mark.usefixtures("ray_local")


def quiet(line: str) -> None:
    assert line


def config(source: str | Path, out: Path, **settings: object) -> ShardConfig:
    values = {"photographs_per_shard": 2, "test_share": 0.2, "val_share": 0.2, **settings}
    return ShardConfig(source=str(source), out=str(out), **values)  # type: ignore[arg-type]


def checksums(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that readers may take, by relative path."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix in (".tar", ".parquet")
    }


def rows(manifest: Manifest) -> list[dict[str, object]]:
    return [manifest.row(index) for index in range(len(manifest))]


@pytest.fixture(scope="module")
def made(
    photographs: str, ray_local: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Manifest]]:
    """Make the sets of the eight images once, for tests that only read them."""
    out = tmp_path_factory.mktemp("made")
    return out, make_shards(config(photographs, out), quiet)


@pytest.fixture
def whole(made: tuple[Path, dict[str, Manifest]], tmp_path: Path) -> Path:
    """A copy of these sets that a test may spoil."""
    return Path(shutil.copytree(made[0], tmp_path / "whole"))


@pytest.fixture
def source(photographs: str, tmp_path: Path) -> Path:
    """A copy of the eight pictures that a test may spoil."""
    return Path(shutil.copytree(photographs, tmp_path / "source"))


def test_every_photograph_is_in_one_split_once(
    photographs: str, made: tuple[Path, dict[str, Manifest]]
) -> None:
    _, sets = made
    sources = {split: [row["source"] for row in rows(found)] for split, found in sets.items()}
    assert {split: len(found) for split, found in sources.items()} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }
    assert sorted(sum(sources.values(), [])) == sorted(os.listdir(photographs))
    assert [shard.samples for shard in sets["train"].shards] == [2, 2]


def test_manifest_leads_to_exactly_the_original_bytes(
    photographs: str, made: tuple[Path, dict[str, Manifest]]
) -> None:
    out, manifest = made[0], made[1]["train"]
    assert manifest.samples.schema.names[: len(SAMPLE_SCHEMA)] == SAMPLE_SCHEMA.names
    for row in rows(manifest):
        tar = Path(manifest.shard_location(int(str(row["shard"])))).read_bytes()
        found = tar[row["offset"] : row["offset"] + row["size"]]  # type: ignore[operator, misc]
        assert found == (Path(photographs) / str(row["source"])).read_bytes()
        assert hashlib.sha256(found).hexdigest() == row["sha256"]
        picture = cv2.imdecode(np.frombuffer(found, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[:2] == (row["height_px"], row["width_px"])
    for shard in manifest.shards:
        data = (out / "train" / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.size, shard.sha256)


def through_webdataset(tars: list[str]) -> Iterator[dict[str, Any]]:
    """Read samples as webdataset does, but close the files, which webdataset leaves open."""
    from webdataset import tariterators

    for tar in tars:
        with open(tar, "rb") as stream:
            members = tariterators.tar_file_expander([{"url": tar, "stream": stream}])
            yield from tariterators.group_by_keys(members)


def test_tars_read_through_tarfile_and_webdataset(
    made: tuple[Path, dict[str, Manifest]],
) -> None:
    manifest = made[1]["train"]
    tars = [manifest.shard_location(shard) for shard in range(len(manifest.shards))]
    through_tarfile = {}
    for tar in tars:
        with tarfile.open(tar) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                assert stream is not None
                through_tarfile[member.name] = stream.read()
    samples = list(through_webdataset(tars))
    assert [sample["__key__"] for sample in samples] == manifest.samples["key"].to_pylist()
    for sample, row in zip(samples, rows(manifest), strict=True):
        assert sample["jpg"] == through_tarfile[f"{row['key']}.jpg"]
        about = json.loads(sample["json"])
        assert about == {
            "source": row["source"],
            "crop": None,
            "height_px": row["height_px"],
            "width_px": row["width_px"],
        }


def test_repetition_is_identical_to_the_byte(photographs: str, tmp_path: Path) -> None:
    settings = {"crop_size_px": 48, "crop_stride_px": 24, "format": "jpg", "min_side_px": 1}
    make_shards(config(photographs, tmp_path / "a", **settings), quiet)
    first = checksums(tmp_path / "a")
    make_shards(config(photographs, tmp_path / "b", **settings), quiet)
    assert checksums(tmp_path / "b") == first
    assert sum(name.endswith(".tar") for name in first) == 4


def test_parallelism_changes_nothing(photographs: str, tmp_path: Path) -> None:
    import ray

    make_shards(config(photographs, tmp_path / "parallel", photographs_per_shard=1), quiet)
    context = ray.data.DataContext.get_current()
    before = context.execution_options.resource_limits
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(cpu=1)
    try:
        make_shards(config(photographs, tmp_path / "serial", photographs_per_shard=1), quiet)
    finally:
        context.execution_options.resource_limits = before
    assert checksums(tmp_path / "serial") == checksums(tmp_path / "parallel")


def test_finished_set_is_reused_and_says_so(
    photographs: str, made: tuple[Path, dict[str, Manifest]], whole: Path
) -> None:
    times = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    lines: list[str] = []
    second = make_shards(config(photographs, whole), lines.append)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == times
    assert "train: 2 finished shards; reused" in lines
    for split, manifest in made[1].items():
        assert second[split].digest == manifest.digest
        assert second[split].samples.equals(manifest.samples)


def test_columns_that_an_earlier_version_did_not_write_are_named_and_made_again(
    photographs: str, made: tuple[Path, dict[str, Manifest]], whole: Path
) -> None:
    """A record that lacks a column would leave its samples without a value in a later manifest."""
    train = made[1]["train"]
    earlier = replace(
        train,
        location=str(whole / "train"),
        samples=train.samples.drop_columns(["perceptual_hash"]),
    )
    write_manifest(earlier)
    for record in (whole / "train").glob("_record-*.json"):
        values = json.loads(record.read_text())
        for row in values["rows"]:
            del row["perceptual_hash"]
        record.write_text(json.dumps(values))
    lines: list[str] = []
    found = make_shards(config(photographs, whole), lines.append)["train"]
    assert found.samples.equals(earlier.samples)
    assert (
        "train: 2 finished shards; reused, without perceptual_hash: --overwrite makes them again"
    ) in lines
    found = make_shards(config(photographs, whole, overwrite=True), quiet)["train"]
    assert found.samples.equals(train.samples)
    assert found.digest == train.digest


def test_only_what_is_missing_is_made_again(photographs: str, whole: Path) -> None:
    before = checksums(whole)
    times = {path: path.stat().st_mtime_ns for path in whole.rglob("*.tar")}
    lost, damaged, kept = (
        whole / "train" / "shard-000001.tar",
        whole / "val" / "shard-000000.tar",
        whole / "train" / "shard-000000.tar",
    )
    lost.unlink()
    data = bytearray(damaged.read_bytes())
    damaged.write_bytes(data[:-1])
    make_shards(config(photographs, whole), quiet)
    assert checksums(whole) == before
    assert kept.stat().st_mtime_ns == times[kept]
    assert damaged.stat().st_mtime_ns > times[damaged]


def test_unfinished_set_trusts_no_tar_that_differs_from_its_record(
    photographs: str, whole: Path
) -> None:
    before = checksums(whole)
    (whole / "train" / "manifest.parquet").unlink()
    damaged = whole / "train" / "shard-000000.tar"
    data = bytearray(damaged.read_bytes())
    data[1000] ^= 1
    damaged.write_bytes(data)
    (whole / "train" / "_record-000001.json").write_bytes(b'{"digest": "cut o')
    (whole / "train" / "_tmp-0123-shard-000000.tar").write_bytes(b"left by a killed task")
    make_shards(config(photographs, whole), quiet)
    assert checksums(whole) == before


def test_photograph_that_came_later_changes_the_set(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    many = make_shards(config(source, out, val_share=0, photographs_per_shard=1), quiet)
    for name in ("picture0.jpg", "picture1.jpg", "picture2.jpg"):
        (source / name).unlink()
    few = make_shards(config(source, out, val_share=0, photographs_per_shard=1), quiet)
    assert sum(len(manifest) for manifest in many.values()) == 8
    assert sum(len(manifest) for manifest in few.values()) == 5
    for split, manifest in few.items():
        tars = sorted(path.name for path in (out / split).glob("shard-*"))
        assert tars == [shard.name for shard in manifest.shards]


def test_split_that_has_no_photographs_any_more_is_no_set(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for index, split in enumerate(("train", "test")):
        (source / split).mkdir()
        for number in range(4):
            name = f"picture{4 * index + number}.jpg"
            (source / name).rename(source / split / name)
    assert set(make_shards(config(source, out), quiet)) == {"train", "test"}
    shutil.rmtree(source / "test")
    assert set(make_shards(config(source, out), quiet)) == {"train"}
    with pytest.raises(UserError, match="not a finished shard set"):
        read_manifest(str(out / "test"))


def test_finished_set_is_not_replaced_by_other_settings_unasked(
    photographs: str, whole: Path
) -> None:
    before = checksums(whole)
    other = config(photographs, whole, format="png")
    with pytest.raises(UserError, match="made with format 'original', now 'png' is given"):
        make_shards(other, quiet)
    assert checksums(whole) == before
    replaced = make_shards(replace(other, overwrite=True), quiet)
    assert set(replaced["train"].samples["suffix"].to_pylist()) == {"png"}


def spoil(source: Path) -> dict[str, str]:
    """Put bad files beside the eight images; return the expected reason of each."""
    good = (source / "picture0.jpg").read_bytes()
    (source / "empty.jpg").write_bytes(b"")
    (source / "short.jpg").write_bytes(good[: len(good) // 2])
    (source / "text.png").write_text("not a picture")
    cv2.imwrite(str(source / "tiny.png"), np.zeros((10, 200, 3), np.uint8))
    cv2.imwrite(str(source / "vast.png"), np.zeros((700, 700), np.uint8))
    return {
        "empty.jpg": "empty file",
        "short.jpg": "truncated",
        "text.png": "not an image",
        "tiny.png": "smaller than min_side_px 64: 200 x 10 px",
        "vast.png": "700 x 700 pixels are more than max_pixels 400000",
    }


def put_names_without_a_file(source: Path) -> dict[str, str]:
    """Put links, a pipe and a socket beside the images; return the expected reason of each image.

    Opening the pipe in the usual way would wait for ever.
    """
    (source / "lost.jpg").symlink_to(source / "missing.jpg")
    (source / "round.jpg").symlink_to("round.jpg")
    (source / "circle.jpg").symlink_to(source)
    (source / "train").symlink_to("/not/mounted")
    (source / "notes.txt").symlink_to("/not/mounted")
    os.mkfifo(source / "pipe.png")
    folder = os.open(source, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(f"/proc/self/fd/{folder}/socket.png")  # Its own path may be too long.
    os.close(folder)
    special = "not a file but a pipe, a socket or a device"
    return {
        "lost.jpg": "a link that leads nowhere",
        "round.jpg": "a link that leads in a circle",
        "circle.jpg": "a folder",
        "pipe.png": special,
        "socket.png": special,
    }


def test_bad_photographs_are_quarantined_with_their_reasons(source: Path, tmp_path: Path) -> None:
    reasons = spoil(source) | put_names_without_a_file(source)
    lines: list[str] = []
    settings = config(source, tmp_path / "out", max_quarantined_share=0.6, max_pixels=400_000)
    sets = make_shards(settings, lines.append)
    assert "passed over: 1 link that leads nowhere: train" in lines
    assert not any("notes.txt" in line for line in lines)
    found = {item.source: item.reason for m in sets.values() for item in m.quarantined}
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert found[name].startswith(reason)
    assert sum(len(manifest) for manifest in sets.values()) == 8
    for split, manifest in sets.items():
        assert read_manifest(str(tmp_path / "out" / split)).quarantined == manifest.quarantined
        file = tmp_path / "out" / split / "quarantined.csv"
        assert file.exists() == bool(manifest.quarantined)
        if manifest.quarantined:
            rows = list(csv.DictReader(file.read_text().splitlines()))
            assert [(r["file"], r["reason"]) for r in rows] == [
                (item.source, item.reason) for item in manifest.quarantined
            ]
            for item in manifest.quarantined:
                assert f"quarantined: {item.source}: {item.reason}" in lines
            assert f"quarantined: all of them in {file}" in lines


def test_damaged_member_of_a_zip_is_quarantined_and_folders_inside_are_splits(
    photographs: str, tmp_path: Path
) -> None:
    folders = ("train", "train", "train", "train", "val", "val", "test", "test")
    file = tmp_path / "photos.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for path, folder in zip(sorted(Path(photographs).iterdir()), folders, strict=True):
            archive.write(path, f"photos/{folder}/{path.name}")
        third = archive.infolist()[2]
    data = bytearray(file.read_bytes())
    data[third.header_offset + 30 + len(third.filename) + third.file_size // 2] ^= 4
    file.write_bytes(data)
    settings = config(file, tmp_path / "out", max_quarantined_share=0.2)
    sets = make_shards(settings, quiet)
    assert {split: len(found) for split, found in sets.items()} == {"train": 3, "val": 2, "test": 2}
    (bad,) = sets["train"].quarantined
    assert bad.source == third.filename
    assert bad.reason == "damaged in its zip: its CRC-32 differs"
    # One of eight is allowed, also if only its set of four is made again.
    (tmp_path / "out" / "train" / "manifest.parquet").unlink()
    assert make_shards(settings, quiet)["train"].quarantined == (bad,)


HEIC = b"\x00\x00\x00\x18ftypheic" + bytes(90)


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    """List files as an installation without the extra ``heic`` does."""
    monkeypatch.setattr(kinds, "readable_suffixes", lambda: (".avif",))


@pytest.mark.parametrize("packed", [False, True])
def test_images_of_kinds_that_are_not_read_are_counted_with_what_to_install(
    source: Path, tmp_path: Path, packed: bool, without_heif: None
) -> None:
    for number in range(3):
        (source / f"IMG_{number}.HEIC").write_bytes(HEIC)
    (source / "a.jxl").write_bytes(b"\xff\x0a")
    (source / "notes.txt").write_text("no image")
    pixels = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    Image.fromarray(pixels).save(source / "a.avif", quality=100)
    where = source
    if packed:
        where = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", source))
    lines: list[str] = []
    sets = make_shards(config(where, tmp_path / "out"), lines.append)
    assert sum(len(found) for found in sets.values()) == 9
    assert not any(found.quarantined for found in sets.values())
    assert [line for line in lines if line.startswith("passed over")] == [
        "passed over: 3 files .heic, which are not read here: install pillow-heif "
        "(`pip install 'infill[heic]'`)",
        "passed over: 1 file .jxl, which are not read here: convert them to PNG or JPEG",
    ]


def test_folder_of_nothing_else_than_unread_kinds_says_what_to_install(
    tmp_path: Path, without_heif: None
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.heic").write_bytes(HEIC)
    with pytest.raises(UserError, match=r"holds no photographs; .*1 file \.heic.*infill\[heic\]"):
        make_shards(config(tmp_path / "in", tmp_path / "out"), quiet)


def test_photographs_of_phones_are_read_and_damaged_ones_set_aside(
    source: Path, tmp_path: Path
) -> None:
    taken = np.zeros((90, 120, 3), np.uint8)
    taken[:, :60] = (200, 40, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: a quarter turn to the right
    Image.fromarray(taken).save(source / "IMG_1.HEIC", "HEIF", quality=95, exif=exif.tobytes())
    whole = (source / "IMG_1.HEIC").read_bytes()
    hidden = whole.index(b"ispe") + 8
    smaller = whole[:hidden] + struct.pack(">II", 8, 8) + whole[hidden + 8 :]
    for name, data in (("cut", whole[: len(whole) * 9 // 10]), ("small", smaller)):
        (source / f"{name}.heic").write_bytes(data)
    sets = make_shards(config(source, tmp_path / "out", max_quarantined_share=0.5), quiet)
    bad = [one for found in sets.values() for one in found.quarantined]
    assert {one.source for one in bad} == {"cut.heic", "small.heic"}
    assert all("object at 0x" not in one.reason for one in bad)
    [turned] = [
        row for found in sets.values() for row in rows(found) if row["source"] == "IMG_1.HEIC"
    ]
    assert (turned["height_px"], turned["width_px"]) == (120, 90)


def test_too_many_bad_photographs_fail_and_leave_no_set(source: Path, tmp_path: Path) -> None:
    spoil(source)
    settings = config(source, tmp_path / "out", max_quarantined_share=0.2, max_pixels=400_000)
    with pytest.raises(UserError, match="of 13 photographs cannot be taken.*empty.jpg|short.jpg"):
        make_shards(settings, quiet)
    assert not list((tmp_path / "out").rglob("manifest.parquet"))
    allowed = make_shards(replace(settings, max_quarantined_share=0.5), quiet)
    assert sum(len(manifest.quarantined) for manifest in allowed.values()) == 5


def test_photograph_repaired_in_place_is_taken_by_the_next_run(
    source: Path, tmp_path: Path
) -> None:
    good = (source / "picture0.jpg").read_bytes()
    (source / "picture0.jpg").write_bytes(good[:-10] + b"0123456789")
    settings = config(source, tmp_path / "out", max_quarantined_share=0.0)
    with pytest.raises(UserError, match="picture0.jpg: truncated"):
        make_shards(settings, quiet)
    (source / "picture0.jpg").write_bytes(good)
    sets = make_shards(settings, quiet)
    assert sum(len(manifest) for manifest in sets.values()) == 8


def test_source_without_one_good_photograph_fails(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(b"nothing")
    settings = config(tmp_path / "in", tmp_path / "out", max_quarantined_share=1.0)
    with pytest.raises(UserError, match="3 of 3 photographs cannot be taken"):
        make_shards(settings, quiet)


def test_split_without_one_good_photograph_fails(source: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (source / split).mkdir()
    for number in range(8):
        (source / f"picture{number}.jpg").rename(source / "train" / f"picture{number}.jpg")
    (source / "val" / "a.jpg").write_bytes(b"nothing")
    settings = config(source, tmp_path / "out", max_quarantined_share=1.0)
    with pytest.raises(UserError, match="all images of val are quarantined.*val/a.jpg"):
        make_shards(settings, quiet)


def test_empty_folder_is_refused_with_the_names_that_count(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="holds no photographs; names that count end in .jpg"):
        make_shards(config(tmp_path / "in", tmp_path / "out"), quiet)
    assert not (tmp_path / "out").exists()


def test_place_that_cannot_be_written_is_refused(photographs: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write to .*choose another --out"):
        make_shards(config(photographs, tmp_path / "file" / "out"), quiet)


def test_tally_shows_shards_rate_and_quarantined_photographs() -> None:
    tally = Tally(photographs=40, shards=4)
    tally.started_s -= 2.0
    done = {"photographs": 10, "bytes_read": 5_000_000, "quarantined": 0, "reasons": []}
    tally.add({**done, "reused": False})
    assert tally.line() == "1 of 4 shards, 2.5 MB/s"
    tally.add({**done, "reused": True, "quarantined": 3})
    assert tally.line() == "2 of 4 shards, 2.5 MB/s, 3 quarantined"


@pytest.fixture
def listed(source: Path, tmp_path: Path) -> ShardConfig:
    """A source of which the list is laid down, so that a shard can be made in this process."""
    lay_down(
        source, tmp_path / "out" / "train", list(open_source("folder", str(source)).originals())
    )
    return config(source, tmp_path / "out")


def lay_down(source: Path, folder: Path, originals: list[Original]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shares = listing.Shares(val=0, test=0, seed=0)
    lists = listing.write_listings(originals, shares, 8, source.parent)
    storage.upload(lists["train"].file, str(folder / listing.FILE_NAME))


def test_photograph_that_changed_after_it_was_listed_stops_the_run(
    listed: ShardConfig, source: Path, tmp_path: Path
) -> None:
    with open(source / "picture3.jpg", "ab") as stream:
        stream.write(b"more")
    with pytest.raises(UserError, match=r"picture3.jpg had .* the source is changing"):
        make_shard(listed, "train", 0)
    (source / "picture3.jpg").unlink()
    with pytest.raises(UserError, match=r"picture3.jpg had .* now is gone"):
        make_shard(listed, "train", 0)
    assert os.listdir(tmp_path / "out" / "train") == [listing.FILE_NAME]


def test_full_disk_ends_in_a_sentence_and_leaves_nothing(
    listed: ShardConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"descriptor {descriptor}")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left") as raised:
        make_shard(listed, "train", 0)
    assert "the disk is full" in str(explain(raised.value))
    assert os.listdir(tmp_path / "out" / "train") == [listing.FILE_NAME]
    monkeypatch.undo()
    record, reused = make_shard(listed, "train", 0)
    assert (record.shard.samples, reused) == (8, False)
    assert make_shard(listed, "train", 0) == (record, True)
