"""WebDataset tars that other programs have written are read without a manifest."""

import gzip
import io
import json
import logging
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig, BatchStream, load_whole, open_set
from infill.pipeline.loading.tar_names import expand, image_of, names_tars
from infill.pipeline.masks import MaskConfig

SMALL = {"image_size_px": 32, "batch_size": 4, "masks": MaskConfig(recipe="box"), "seed": 3}
PER_TAR = 6


def picture(number: int, format: str = "JPEG", side: int = 48, **options: object) -> bytes:
    """Return an image of one colour, by which it is known again."""
    pixels = np.full((side, side + 16, 3), (10 * number % 250, 255 - 5 * number, 128), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, format=format, **options)
    return sink.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


@pytest.fixture
def tars(tmp_path: Path) -> str:
    """Three tars as img2dataset writes them: an image, its caption and its record per sample."""
    for tar in range(3):
        members = {}
        for number in range(tar * PER_TAR, (tar + 1) * PER_TAR):
            name = f"{tar:05d}{number:04d}"
            members[f"{name}.jpg"] = picture(number, quality=95)
            members[f"{name}.txt"] = b"a caption"
            members[f"{name}.json"] = json.dumps({"key": name, "status": "success"}).encode()
        write_tar(tmp_path / f"{tar:05d}.tar", members)
        (tmp_path / f"{tar:05d}_stats.json").write_text("{}")
    return f"{tmp_path}/{{00000..00002}}.tar"


def taken(config: BatchConfig, steps: int, **place: int) -> list:
    with BatchStream(config, **place) as stream:
        return [next(stream) for _ in range(steps)]


def keys(batches: list) -> list[str]:
    return [key for batch in batches for key in batch.keys]


@pytest.mark.parametrize("loader", ["threads", "processes"])
def test_every_image_comes_once_in_a_pass(tars, loader):
    config = BatchConfig(shards=tars, loader=loader, num_decode_workers=1, **SMALL)
    batches = taken(config, 9)  # 18 images in batches of 4: two passes are 9 batches.
    seen = keys(batches)
    assert len(set(seen[:18])) == 18
    assert sorted(seen[:18]) == sorted(seen[18:])
    assert seen[:18] != sorted(seen[:18])
    assert seen[:18] != seen[18:]
    for batch in batches:
        assert batch.image.shape == (4, 3, 32, 32)
        assert batch.mask.unique().tolist() == [0, 1]
        for key, image in zip(batch.keys, batch.image, strict=True):
            number = int(key[-4:])
            levels = (image.mean(dim=(1, 2)) * 127.5 + 127.5).tolist()
            assert levels == pytest.approx([10 * number % 250, 255 - 5 * number, 128], abs=3)
    assert [batch.step for batch in batches] == list(range(9))


def test_processes_share_the_tars_and_lose_no_image(tars):
    config = BatchConfig(shards=tars, loader="processes", num_decode_workers=2, **SMALL)
    seen = keys(taken(config, 12))
    assert len(set(seen)) == 18


def test_workers_get_tars_of_their_own(tars):
    config = BatchConfig(shards=tars, **{**SMALL, "batch_size": 6})
    of_rank = [keys(taken(config, 9, rank=rank, world_size=3)) for rank in range(3)]
    assert [{key.partition("/")[0] for key in found} for found in of_rank] == [
        {"00000"},
        {"00001"},
        {"00002"},
    ]
    assert all(len(set(found)) == PER_TAR for found in of_rank)


def test_run_that_resumes_sees_another_order_and_the_same_one_if_asked_again(tars):
    config = BatchConfig(shards=tars, **SMALL)
    first = taken(config, 4)
    again = taken(config, 4)
    assert keys(first) == keys(again)
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a.mask, b.mask) for a, b in zip(first, again, strict=True))
    assert keys(taken(config, 4, first_step=4)) != keys(first)
    assert taken(config, 1, first_step=4)[0].step == 4


def test_several_masks_of_one_window_follow_each_other(tars):
    batch = taken(BatchConfig(shards=tars, masks_per_image=2, **SMALL), 1)[0]
    assert batch.keys[0] == batch.keys[1] != batch.keys[2] == batch.keys[3]
    assert torch.equal(batch.image[0], batch.image[1])
    assert not torch.equal(batch.mask[0], batch.mask[1])


def test_index_reads_what_is_in_the_tars_and_is_kept(tars, tmp_path):
    data = BatchConfig(cache_folder=str(tmp_path / "cache"))
    index = open_set(tars, data)
    assert len(index) == 18
    assert index.counts == (6, 6, 6)
    assert index.row(7)["key"] == "00001/000010007"
    assert (index.row(7)["height_px"], index.row(7)["width_px"]) == (48, 64)
    assert load_whole(index, 7).mean(axis=(0, 1)) == pytest.approx([70, 220, 128], abs=2)
    [kept] = (tmp_path / "cache" / "indexes").iterdir()
    before = kept.stat().st_mtime_ns
    assert open_set(tars, data).samples == index.samples
    assert kept.stat().st_mtime_ns == before
    write_tar(tmp_path / "00001.tar", {"new.jpg": picture(1)})
    assert open_set(tars, data).counts == (6, 1, 6)


def test_tars_in_an_object_store_are_read(tars, tmp_path, bucket):
    from pyarrow import fs

    from infill.pipeline import storage

    system, path = storage.filesystem(f"{bucket}/laion")
    for tar in range(3):
        name = f"{tar:05d}.tar"
        fs.copy_files(str(tmp_path / name), f"{path}/{name}", destination_filesystem=system)
    there = f"{bucket}/laion/{{00000..00002}}.tar"
    config = BatchConfig(shards=there, cache_folder=str(tmp_path / "cache"), **SMALL)
    here = taken(replace(config, shards=tars), 3)
    assert keys(taken(config, 3)) == keys(here)
    index = open_set(there, config)
    assert index.location == f"{bucket}/laion"
    assert np.array_equal(load_whole(index, 17), load_whole(open_set(tars, config), 17))
    packed = f"{bucket}/laion/00002.tar.gz"
    storage.write(packed, compressed(tmp_path / "00002.tar").read_bytes())
    assert np.array_equal(load_whole(open_set(packed, config), 5), load_whole(index, 17))
    alone = replace(config, shards=f"{tmp_path}/00002.tar")
    assert keys(taken(replace(config, shards=packed), 3)) == keys(taken(alone, 3))
    with pytest.raises(UserError, match=r"there is no tar s3://.*/00003.tar; give the names"):
        open_set(f"{bucket}/laion/{{00000..00003}}.tar", config)


def test_odd_members_and_kinds_of_images_are_read(tmp_path):
    write_tar(
        tmp_path / "odd.tar",
        {
            "__meta__.json": b"{}",
            "train/cats/a.JPG": picture(1),
            "train/cats/a.cls": b"3",
            "train/cats/a.seg.png": picture(9, "PNG"),
            "photo.v2.jpg": picture(2),
            "deep.png": sixteen_bits(),
            "cmyk.jpg": cmyk(),
            "only.txt": b"no image",
        },
    )
    index = open_set(f"{tmp_path}/odd.tar", BatchConfig(cache_folder=str(tmp_path / "cache")))
    assert index.samples["key"].to_pylist() == [
        "odd/train/cats/a",
        "odd/photo.v2",
        "odd/deep",
        "odd/cmyk",
    ]
    means = [load_whole(index, row).mean(axis=(0, 1)).round().tolist() for row in range(4)]
    assert means[0] == pytest.approx([10, 250, 128], abs=2)
    assert means[1] == pytest.approx([20, 245, 128], abs=2)
    assert means[2] == pytest.approx([128, 128, 128], abs=1)
    assert means[3] == pytest.approx([255, 0, 0], abs=3)
    config = BatchConfig(shards=f"{tmp_path}/odd.tar", **SMALL)
    assert sorted(set(keys(taken(config, 2)))) == sorted(index.samples["key"].to_pylist())


def sixteen_bits() -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((40, 40), 128 * 257, np.uint16)).save(sink, format="PNG")
    return sink.getvalue()


def cmyk() -> bytes:
    sink = io.BytesIO()
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(sink, format="JPEG", quality=95)
    return sink.getvalue()


def test_image_among_several_is_named_or_asked_for(tmp_path):
    members = ["image.jpg", "mask.png", "json"]
    with pytest.raises(UserError, match=r"'0001' of x\.tar has several images \(image\.jpg, mask"):
        image_of("0001", members, "", "x.tar")
    assert image_of("0001", members, "image.jpg", "x.tar") == ["image.jpg"]
    assert image_of("0001", members, "*", "x.tar") == ["image.jpg", "mask.png"]
    assert image_of("0001", ["png", "mask.png"], "", "x.tar") == ["png"]
    assert image_of("0001", ["json"], "", "x.tar") == []
    with pytest.raises(UserError, match=r"the one to read, --image-member image\.jpg, or .* '\*'"):
        image_of("0001", members, "", "x.tar", "--image-member")
    write_tar(tmp_path / "two.tar", {"1.image.jpg": picture(1), "1.mask.png": picture(2, "PNG")})
    config = BatchConfig(shards=f"{tmp_path}/two.tar", **SMALL)
    with pytest.raises(UserError, match=r"has several images .* --data.image-member image.jpg"):
        taken(config, 1)
    assert set(keys(taken(replace(config, image_member="image.jpg"), 1))) == {"two/1.image"}
    assert set(keys(taken(replace(config, image_member="*"), 2))) == {"two/1.image", "two/1.mask"}


def test_damaged_image_is_named_and_left_out_and_many_end_the_run(tmp_path, caplog):
    good = {f"{number}.jpg": picture(number) for number in range(20)}
    damaged = picture(20)[:200]
    write_tar(tmp_path / "some.tar", {**good, "bad.jpg": damaged})
    config = BatchConfig(shards=f"{tmp_path}/some.tar", **SMALL)
    with caplog.at_level(logging.WARNING):
        seen = keys(taken(config, 10))
    assert len(set(seen)) == 20
    assert any(line.startswith("some/bad is left out: ") for line in caplog.messages)
    index = open_set(config.shards, BatchConfig(cache_folder=str(tmp_path / "cache")))
    assert [image.source for image in index.quarantined] == ["some/bad"]
    write_tar(tmp_path / "most.tar", {f"bad{number}.jpg": damaged for number in range(30)})
    with pytest.raises(UserError, match=r"11 of \d+ images of .*most.tar cannot be read, the last"):
        taken(replace(config, shards=f"{tmp_path}/most.tar"), 1)


def test_wrong_sets_end_in_a_sentence(tars, tmp_path):
    config = BatchConfig(shards=tars, **SMALL)
    wrong = {
        "{00000..00004}.tar": r"there is no tar .*/0000[34].tar; give the names of existing tars",
        "text.tar": r"holds no image: no member is jpg, jpeg, png or webp",
        "inside.tar": r"inside.tar cannot be read: unexpected end of data",
        "between.tar": r"between.tar is truncated: its last block is not empty",
        "small.tar": r"sample 'small/1' of .* is 36x20 px, smaller than the crop of 32 px; give",
    }
    write_tar(tmp_path / "text.tar", {"1.txt": b"text"})
    write_tar(tmp_path / "small.tar", {"1.png": picture(1, "PNG", side=20)})
    whole = (tmp_path / "00000.tar").read_bytes()
    with tarfile.open(tmp_path / "00000.tar") as tar:
        second = tar.getmembers()[3]
    (tmp_path / "inside.tar").write_bytes(whole[: second.offset_data + 100])
    (tmp_path / "between.tar").write_bytes(whole[: second.offset])
    (tmp_path / "empty.tar").write_bytes(b"")
    data = BatchConfig(cache_folder=str(tmp_path / "cache"))
    for name in ("inside", "between", "empty"):
        with pytest.raises(
            UserError, match=rf"{name}.tar is not a complete tar: .*; copy or make it"
        ):
            open_set(f"{tmp_path}/{name}.tar", data)
    assert not (tmp_path / "cache" / "indexes").exists()  # Nothing cut is remembered as whole.
    for name, sentence in wrong.items():
        with pytest.raises(UserError, match=sentence):
            taken(replace(config, shards=f"{tmp_path}/{name}"), 8)
    with pytest.raises(UserError, match=r"names 3 tars for 4 workers, and each needs one"):
        taken(config, 1, rank=3, world_size=4)
    with pytest.raises(
        UserError, match=r"takes 1 samples a step, which is not a multiple of masks_per"
    ):
        taken(replace(config, batch_size=2, masks_per_image=2), 1, rank=0, world_size=2)
    with pytest.raises(UserError, match=r"needs a shard set; WebDataset tars take processes"):
        taken(replace(config, loader="ray"), 1)
    with pytest.raises(UserError, match=r"^sample 'small/1' of "):
        taken(replace(config, loader="processes", shards=f"{tmp_path}/small.tar"), 1)


def test_joined_tars_are_read_to_their_end(tars, tmp_path):
    parts = [(tmp_path / f"{number:05d}.tar").read_bytes() for number in range(3)]
    (tmp_path / "joined.tar").write_bytes(b"".join(parts))
    (tmp_path / "junk.tar").write_bytes(parts[0] + b"junk" * 512 + bytes(1024))
    config = BatchConfig(shards=f"{tmp_path}/joined.tar", **SMALL)
    cache = BatchConfig(cache_folder=str(tmp_path / "cache"))
    assert len(open_set(config.shards, cache)) == 3 * PER_TAR
    batches = taken(config, 3 * PER_TAR)
    assert len(set(keys(batches))) == 3 * PER_TAR
    with pytest.raises(UserError, match="is not a complete tar"):
        open_set(f"{tmp_path}/junk.tar", cache)
    with pytest.raises(UserError, match=r"junk.tar cannot be read: .* at byte"):
        taken(replace(config, shards=f"{tmp_path}/junk.tar"), 8)


def compressed(path: Path) -> Path:
    """Write a tar beside itself, compressed by gzip."""
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def test_tars_compressed_by_gzip_are_read_as_plain_ones(tars, tmp_path):
    for number in range(3):
        compressed(tmp_path / f"{number:05d}.tar")
    (tmp_path / "00002.tar.gz").rename(tmp_path / "00002.tgz")
    packed = f"{tmp_path}/{{00000.tar.gz,00001.tar.gz,00002.tgz}}"
    config = BatchConfig(shards=packed, cache_folder=str(tmp_path / "cache"), **SMALL)
    plain = replace(config, shards=tars)
    assert keys(taken(config, 9)) == keys(taken(plain, 9))
    ours, theirs = open_set(packed, config), open_set(tars, plain)
    assert ours.samples == theirs.samples
    assert np.array_equal(load_whole(ours, 17), load_whole(theirs, 17))


def test_what_is_compressed_otherwise_than_its_name_says_ends_in_a_sentence(tars, tmp_path):
    packed = compressed(tmp_path / "00000.tar").read_bytes()
    wrong = {
        "half.tar.gz": (
            packed[: len(packed) // 2],
            "cannot be (read|decompressed): .* ended before",
        ),
        "plain.tar.gz": ((tmp_path / "00000.tar").read_bytes(), "Not a gzipped file"),
        "twice.tar.gz": (gzip.compress(packed), "is compressed twice: decompress it once"),
        "packed.tar": (packed, r"is compressed by gzip: name it .*packed.tar.gz"),
        "other.tar.bz2": (b"BZh", "compressed, but not by gzip: decompress it to a .tar"),
    }
    cache = BatchConfig(cache_folder=str(tmp_path / "cache"))
    for name, (data, sentence) in wrong.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=sentence):
            open_set(f"{tmp_path}/{name}", cache)
        with pytest.raises(UserError, match=sentence):
            taken(BatchConfig(shards=f"{tmp_path}/{name}", **SMALL), 1)


def test_a_member_that_comes_twice_in_a_sample_ends_in_a_sentence(tmp_path):
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for number, name in enumerate(("a/1.jpg", "a/1.txt", "a/1.JPG")):
            entry = tarfile.TarInfo(name)
            entry.size = len(picture(number))
            tar.addfile(entry, io.BytesIO(picture(number)))
    config = BatchConfig(shards=f"{tmp_path}/twice.tar", cache_folder=str(tmp_path), **SMALL)
    with pytest.raises(UserError, match=r"twice.tar holds a/1.JPG twice: a sample has one member"):
        open_set(config.shards, config)
    with pytest.raises(UserError, match=r"twice.tar holds a/1.JPG twice: a sample has one member"):
        taken(config, 1)


def test_images_of_equal_names_in_several_tars_are_several_photographs(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("0.tar", "1.tar"):
            write_tar(tmp_path / folder / name, {"x.jpg": picture(1), "y.jpg": picture(2)})
    index = open_set(f"{tmp_path}/{{a,b}}/{{0,1}}.tar", BatchConfig(cache_folder=str(tmp_path)))
    found = ["0/x", "0/y", "1/x", "1/y", "0/x~2", "0/y~2", "1/x~2", "1/y~2"]
    assert index.samples["key"].to_pylist() == found
    assert index.samples["source"].to_pylist() == [f"{key}.jpg" for key in found]


def test_a_set_without_the_named_member_is_refused_by_it(tmp_path):
    write_tar(tmp_path / "one.tar", {"1.image.jpg": picture(1)})
    config = BatchConfig(shards=f"{tmp_path}/one.tar", image_member="photo.png", **SMALL)
    cached = replace(config, cache_folder=str(tmp_path / "cache"))
    for read in (lambda: taken(config, 1), lambda: open_set(config.shards, cached)):
        with pytest.raises(UserError, match=r"one.tar holds no image: no member is photo.png"):
            read()


def test_names_of_tars():
    assert names_tars("s3://bucket/{00000..01023}.tar")
    assert names_tars("/data/{train,val}-0.tar")
    assert names_tars("a.tar")
    assert names_tars("/data/{0.tar,1.tar.gz}")
    assert not names_tars("/data/shards")
    assert expand("/d/{08..11}.tar") == [f"/d/{number}.tar" for number in ("08", "09", "10", "11")]
    with pytest.raises(UserError, match="names a tar twice"):
        expand("/d/{1,1}.tar")
    with pytest.raises(UserError, match="write a range as"):
        expand("/d/{1..2.tar")
