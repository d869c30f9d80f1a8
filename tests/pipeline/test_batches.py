"""Batches are functions of (shards, configuration, step): of nothing else."""

import io
import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import boto3
import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from models.architecture import Batch
from pipeline import storage
from pipeline.batches import (
    BatchConfig,
    BatchStream,
    SampleMaker,
    clustered,
    load_sample,
    reading,
    to_model,
    to_pixels,
)
from pipeline.batches.reading import ShardCache
from pipeline.config import UserError, from_json, to_json
from pipeline.manifest import (
    SAMPLE_SCHEMA,
    Manifest,
    ShardRecord,
    read_manifest,
    write_manifest,
)
from pipeline.masks import MaskConfig, mask_from_id

SMALL = {"image_size_px": 32, "batch_size": 6, "masks": MaskConfig(recipe="box"), "seed": 3}


def write_set(folder: Path, pictures: list[bytes], per_shard: int) -> str:
    """Write encoded pictures as a shard set, with the standard library alone."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, records = [], []
    for shard, first in enumerate(range(0, len(pictures), per_shard)):
        path = folder / f"shard-{shard:05d}.tar"
        group = pictures[first : first + per_shard]
        with tarfile.open(path, "w") as tar:
            for index, data in enumerate(group, start=first):
                member = tarfile.TarInfo(f"p{index:03d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        with tarfile.open(path) as tar:
            for index, member in enumerate(tar.getmembers(), start=first):
                height, width = cv2.imdecode(np.frombuffer(pictures[index], np.uint8), 1).shape[:2]
                rows.append(
                    {
                        "key": f"p{index:03d}",
                        "source": f"{index}.jpg",
                        "suffix": "jpg",
                        "shard": shard,
                        "offset": member.offset_data,
                        "size": member.size,
                        "sha256": storage.sha256(pictures[index]),
                        "height_px": height,
                        "width_px": width,
                    }
                )
        data = path.read_bytes()
        records.append(
            ShardRecord(
                name=path.name, samples=len(group), size=len(data), sha256=storage.sha256(data)
            )
        )
    table = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
    write_manifest(Manifest(location=str(folder), samples=table, shards=tuple(records)))
    return str(folder)


@pytest.fixture(scope="module")
def pictures(photographs: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(photographs).glob("*.jpg"))]


@pytest.fixture(scope="module")
def shards(pictures: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_set(tmp_path_factory.mktemp("set"), pictures, per_shard=3)


def take(config: BatchConfig, steps: int, **place: int) -> list[Batch]:
    with BatchStream(config, **place) as stream:
        return [next(stream) for _ in range(steps)]


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert (one.keys, one.mask_ids) == (other.keys, other.mask_ids)
        assert (one.step, one.seed) == (other.step, other.seed)
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.mask, other.mask)


# The batches


def test_batch_has_the_shapes_ranges_and_names_it_promises(shards: str) -> None:
    (batch,) = take(BatchConfig(shards=shards, **SMALL), 1)
    assert batch.image.shape == (6, 3, 32, 32)
    assert batch.mask.shape == (6, 1, 32, 32)
    assert batch.image.dtype == batch.mask.dtype == torch.float32
    assert -1 <= batch.image.min() < batch.image.max() <= 1
    assert set(batch.mask.unique().tolist()) == {0.0, 1.0}
    assert len(set(batch.keys)) == 6
    for mask_id, mask in zip(batch.mask_ids, batch.mask, strict=True):
        again = mask_from_id(MaskConfig(recipe="box"), mask_id)
        np.testing.assert_array_equal(again.hole, mask[0].numpy())


def test_threads_and_prefetch_do_not_change_a_batch(shards: str) -> None:
    config = BatchConfig(shards=shards, **SMALL)
    expected = take(replace(config, decode_threads=1, prefetch_batches=0), 5)
    assert_same(take(replace(config, decode_threads=4, prefetch_batches=3), 5), expected)


def test_stream_from_a_later_step_goes_on_exactly(shards: str) -> None:
    config = BatchConfig(shards=shards, **SMALL)
    whole = take(config, 6)  # eight samples, six a step: steps cross epochs
    assert_same(take(config, 3, first_step=3), whole[3:])
    assert [batch.step for batch in whole] == list(range(6))


def test_two_workers_share_the_batch_of_one(shards: str) -> None:
    config = BatchConfig(shards=shards, **SMALL)
    alone = take(config, 3)
    workers = [take(config, 3, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(alone):
        for rank in range(2):
            part = workers[rank][step]
            assert part.keys == batch.keys[rank::2]
            assert part.mask_ids == batch.mask_ids[rank::2]
            assert torch.equal(part.image, batch.image[rank::2])
            assert torch.equal(part.mask, batch.mask[rank::2])
        assert workers[0][step].seed != workers[1][step].seed


def test_global_random_state_is_neither_read_nor_changed(shards: str) -> None:
    config = BatchConfig(shards=shards, colour_jitter=0.1, **SMALL)
    torch.manual_seed(0)
    np.random.seed(0)
    first = take(config, 2)
    assert np.random.random() == np.random.RandomState(0).random()
    expected = torch.rand(1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.rand(1), expected)
    assert_same(take(config, 2), first)


def test_epochs_show_a_sample_in_other_crops_under_other_holes(shards: str) -> None:
    maker = SampleMaker(BatchConfig(shards=shards, **SMALL), read_manifest(shards))
    samples = [maker.make(2, epoch) for epoch in range(8)]
    assert len({s.pixels.tobytes() for s in samples}) > 6
    assert len({s.mask_id for s in samples}) == 8


def test_flip_mirrors_about_half_of_the_samples_and_moves_nothing_else(shards: str) -> None:
    config = BatchConfig(shards=shards, **SMALL)
    manifest = read_manifest(shards)
    flipping = SampleMaker(config, manifest)
    plain = SampleMaker(replace(config, horizontal_flip=False), manifest)
    mirrored = 0
    for epoch in range(60):
        ours, theirs = flipping.make(0, epoch).pixels, plain.make(0, epoch).pixels
        if not np.array_equal(ours, theirs):
            np.testing.assert_array_equal(ours, theirs[:, ::-1])
            mirrored += 1
    assert 18 < mirrored < 42


def test_random_crop_is_a_window_of_the_image(shards: str, pictures: list[bytes]) -> None:
    config = BatchConfig(shards=shards, horizontal_flip=False, **SMALL)
    maker = SampleMaker(config, read_manifest(shards))
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(pictures[1], np.uint8), 1), cv2.COLOR_BGR2RGB)
    places = set()
    for epoch in range(12):
        pixels = maker.make(1, epoch).pixels
        distance = cv2.matchTemplate(image, pixels, cv2.TM_SQDIFF)
        _, _, (left, top), _ = cv2.minMaxLoc(distance)
        np.testing.assert_array_equal(image[top : top + 32, left : left + 32], pixels)
        places.add((top, left))
    assert len(places) > 9


@pytest.mark.parametrize("crop", ["random", "centre", "squash", "centre_square", "subsample"])
def test_every_crop_gives_the_size_asked_for(shards: str, crop: str) -> None:
    config = BatchConfig(shards=shards, crop=crop, quarter_turns=True, **SMALL)
    (batch,) = take(config, 1)
    assert batch.image.shape == (6, 3, 32, 32)


def test_squash_shows_the_whole_image_averaged(shards: str, pictures: list[bytes]) -> None:
    pixels = load_sample(read_manifest(shards), 0, 32, crop="squash").astype(np.float64)
    image = cv2.imdecode(np.frombuffer(pictures[0], np.uint8), 1)[..., ::-1].astype(np.float64)
    means = image.reshape(32, 3, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(pixels - means).max() <= 0.51


def test_resized_short_side_keeps_proportions(shards: str) -> None:
    config = BatchConfig(
        shards=shards, crop="centre", resize_short_side_px=48, horizontal_flip=False, **SMALL
    )
    manifest = read_manifest(shards)
    pixels = SampleMaker(config, manifest).make(0, 0).pixels
    halved = cv2.resize(load_sample(manifest, 0, 96), (48, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(pixels.astype(int) - halved[8:40, 8:40]).max() <= 1


def test_colour_jitter_changes_colours_a_little_and_the_same_again(shards: str) -> None:
    manifest = read_manifest(shards)
    config = BatchConfig(shards=shards, **SMALL)
    plain = SampleMaker(config, manifest)
    changed = SampleMaker(replace(config, colour_jitter=0.05), manifest)
    differences = []
    for epoch in range(6):
        ours = changed.make(0, epoch)
        np.testing.assert_array_equal(ours.pixels, changed.make(0, epoch).pixels)
        assert ours.mask_id == plain.make(0, epoch).mask_id
        difference = ours.pixels.astype(int) - plain.make(0, epoch).pixels
        differences.append(np.abs(difference).mean())
    assert 0.3 < np.mean(differences) < 20
    assert len(set(differences)) == 6


def test_waiting_is_counted(shards: str) -> None:
    with BatchStream(BatchConfig(shards=shards, prefetch_batches=0, **SMALL)) as stream:
        assert stream.wait_s == 0
        next(stream)
        first = stream.wait_s
        next(stream)
        assert 0 < first < stream.wait_s


def test_batches_are_made_ahead_of_the_one_in_use(shards: str) -> None:
    with BatchStream(BatchConfig(shards=shards, prefetch_batches=3, **SMALL)) as stream:
        next(stream)
        assert [pending.step for pending in stream._loader.pending] == [1, 2, 3]


def test_closed_stream_leaves_no_thread(shards: str) -> None:
    before = threading.active_count()
    with BatchStream(BatchConfig(shards=shards, **SMALL)) as stream:
        next(stream)
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_ray_makes_the_same_batches_to_the_bit(
    shards: str, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustered, "STEPS_PER_DATASET", 3)  # four steps need a second dataset
    config = BatchConfig(shards=shards, colour_jitter=0.05, **SMALL)
    place = {"rank": 1, "world_size": 2, "first_step": 1}
    assert_same(take(replace(config, loader="ray"), 4, **place), take(config, 4, **place))


def test_ray_tells_of_a_damaged_sample_in_the_same_sentence(
    pictures: list[bytes],
    tmp_path: Path,
    ray_local: None,
) -> None:
    path = Path(write_set(tmp_path, pictures[:3], per_shard=3)) / "shard-00000.tar"
    os.truncate(path, 700)
    config = BatchConfig(shards=str(tmp_path), loader="ray", **SMALL)
    with pytest.raises(UserError, match=r"^sample 'p00\d' in shard .* is damaged: .* again$"):
        take(config, 1)


# Pixels


def test_all_levels_survive_the_way_to_the_model_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([levels, levels[::-1], levels.T], axis=-1)[None]
    image = to_model(pixels)
    assert image.dtype == torch.float32
    assert (image.min().item(), image.max().item()) == (-1.0, 1.0)
    np.testing.assert_allclose(
        image[0, 0].numpy(), levels.astype(np.float64) / 127.5 - 1, atol=1e-7
    )
    np.testing.assert_array_equal(to_pixels(image), pixels)
    np.testing.assert_array_equal(to_pixels(to_model(pixels[0])), pixels)


def test_values_outside_the_range_are_clamped() -> None:
    image = torch.tensor([-1.5, -0.999, 0.001, 7.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert to_pixels(image)[0, ..., 0].ravel().tolist() == [0, 0, 128, 255]


# What a person has to put right


def test_memory_is_used_again_but_never_under_whoever_still_holds_it(shards: str) -> None:
    config = BatchConfig(shards=shards, batch_size=4, image_size_px=32, prefetch_batches=1)
    with BatchStream(config) as stream:
        kept = [next(stream) for _ in range(20)]
    with BatchStream(config) as stream:
        held, places = [], set()
        for _ in range(20):
            batch = next(stream)
            places.add(batch.image.data_ptr())
            held = [*held, batch.image.flatten(1)[:, ::7], batch.mask[1:]][-2:]  # views count too
            again = torch.equal(held[0], kept[batch.step].image.flatten(1)[:, ::7])
            assert again
            assert torch.equal(held[1], kept[batch.step].mask[1:])
    assert len(places) < 8
    assert len({batch.image.data_ptr() for batch in kept}) == 20


def test_every_image_of_a_batch_has_one_mask_of_each_kind(shards: str) -> None:
    """DeepGIN's batches: the same for any number of workers and wherever a run went on."""
    kinds = (("box", 1.0), ("strokes", 1.0), ("automaton", 1.0))
    config = BatchConfig(
        shards=shards,
        batch_size=12,
        image_size_px=32,
        masks=MaskConfig(recipe="mixed", mixture=kinds, in_turn=True),
        masks_per_image=3,
    )
    with BatchStream(config) as stream:
        batches = [next(stream) for _ in range(3)]
    for batch in batches:
        for first in range(0, 12, 3):
            three = slice(first, first + 3)
            assert len(set(batch.keys[three])) == 1
            assert torch.equal(batch.image[first], batch.image[first + 1])
            assert torch.equal(batch.image[first], batch.image[first + 2])
            found = [name.split(":")[0] for name in batch.mask_ids[three]]
            assert found == ["box", "strokes", "automaton"]
    seen = [name for batch in batches for name in batch.mask_ids]
    assert len(set(seen)) == len(seen)
    shares = []
    for rank in range(4):
        with BatchStream(config, rank=rank, world_size=4, first_step=2) as stream:
            shares.append(next(stream))
    assert torch.equal(
        torch.stack([share.mask for share in shares], dim=1).flatten(0, 1), batches[2].mask
    )
    with pytest.raises(UserError, match="multiple of masks_per_image"):
        BatchConfig(batch_size=8, masks_per_image=3)


def test_images_smaller_than_the_crop_are_refused_before_anything_is_read(shards: str) -> None:
    config = BatchConfig(shards=shards, image_size_px=100)
    with pytest.raises(UserError, match=r"'p000'.*128x96 px.*crop of 100 px, and so are 7 others"):
        BatchStream(config)
    (batch,) = take(replace(config, enlarge_small_images=True), 1)
    assert batch.image.shape == (8, 3, 100, 100)
    (batch,) = take(replace(config, crop="squash"), 1)
    assert batch.image.shape == (8, 3, 100, 100)
    with pytest.raises(UserError, match="'p000'.*smaller than the crop of 100 px;"):
        load_sample(read_manifest(shards), 0, 100)


def test_unequal_slices_are_refused(shards: str) -> None:
    with pytest.raises(UserError, match="multiple of the number of workers, found 6 for 4"):
        BatchStream(BatchConfig(shards=shards, **SMALL), rank=0, world_size=4)


def test_truncated_shard_names_shard_and_key(pictures: list[bytes], tmp_path: Path) -> None:
    broken = Path(write_set(tmp_path, pictures[:3], per_shard=3)) / "shard-00000.tar"
    os.truncate(broken, len(pictures[0]) + 700)
    with pytest.raises(UserError, match=r"'p00[12]' in shard .*shard-00000.tar is damaged.*ends"):
        take(BatchConfig(shards=str(tmp_path), **SMALL), 1)


def test_missing_shard_is_named(pictures: list[bytes], tmp_path: Path) -> None:
    write_set(tmp_path, pictures[:4], per_shard=2)
    (tmp_path / "shard-00001.tar").unlink()
    with pytest.raises(UserError, match="shard-00001.tar is missing"):
        take(BatchConfig(shards=str(tmp_path), **SMALL), 1)


def test_overwritten_image_is_noticed(pictures: list[bytes], tmp_path: Path) -> None:
    path = Path(write_set(tmp_path, pictures[:3], per_shard=3)) / "shard-00000.tar"
    manifest = read_manifest(str(tmp_path))
    row = manifest.row(1)
    data = bytearray(path.read_bytes())
    data[row["offset"] : row["offset"] + 200] = b"\0" * 200
    path.write_bytes(data)
    with pytest.raises(UserError, match="'p001'.*not a picture"):
        take(BatchConfig(shards=str(tmp_path), **SMALL), 1)


def test_changed_bits_are_noticed_by_checksum(pictures: list[bytes], tmp_path: Path) -> None:
    path = Path(write_set(tmp_path, pictures[:3], per_shard=3)) / "shard-00000.tar"
    row = read_manifest(str(tmp_path)).row(2)
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["size"] // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="'p002'.*SHA-256"):
        take(BatchConfig(shards=str(tmp_path), verify_checksums=True, **SMALL), 1)
    with pytest.raises(UserError, match="SHA-256"):
        load_sample(read_manifest(str(tmp_path)), 2, 32)


def test_image_of_another_size_than_the_manifest_says_is_noticed(
    pictures: list[bytes], tmp_path: Path
) -> None:
    write_set(tmp_path, pictures[:2], per_shard=2)
    manifest = read_manifest(str(tmp_path))
    rows = [{**manifest.row(index), "width_px": 127} for index in range(2)]
    table = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
    write_manifest(replace(manifest, samples=table))
    with pytest.raises(UserError, match="is 128x96 px, the manifest says 127x96"):
        take(BatchConfig(shards=str(tmp_path), **SMALL), 1)


def test_unfinished_and_empty_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished shard set"):
        BatchStream(BatchConfig(shards=str(tmp_path)))
    empty = pa.Table.from_pylist([], schema=SAMPLE_SCHEMA)
    write_manifest(Manifest(location=str(tmp_path), samples=empty, shards=()))
    with pytest.raises(UserError, match="holds no samples"):
        BatchStream(BatchConfig(shards=str(tmp_path)))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"image_size_px": 4}, "image_size_px must be at least 8"),
        ({"decode_threads": 0}, "decode_threads"),
        ({"colour_jitter": 0.9}, "colour_jitter"),
        ({"resize_short_side_px": 100}, "resize_short_side_px"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        BatchConfig(**fields)


def test_configuration_survives_json() -> None:
    config = BatchConfig(masks=MaskConfig(recipe="box", max_hole_ratio=0.3), crop="squash")
    assert from_json(BatchConfig, to_json(config)) == config


# The node's copies of remote shards


def test_cached_shard_is_copied_once_verified_and_evicted(shards: str, tmp_path: Path) -> None:
    manifest = read_manifest(shards)
    sizes = [record.size for record in manifest.shards]
    cache = ShardCache(str(tmp_path), max_bytes=sizes[0] + sizes[1])
    locations = [manifest.shard_location(shard) for shard in range(3)]
    first = cache.path(locations[0], manifest.shards[0])
    assert first.read_bytes() == Path(locations[0]).read_bytes()
    stamp = first.stat().st_ino
    cache.path(locations[1], manifest.shards[1])
    assert cache.path(locations[0], manifest.shards[0]).stat().st_ino == stamp
    cache.path(locations[2], manifest.shards[2])  # no room for three: the second is the oldest
    kept = {path.name for path in tmp_path.glob("*.tar")}
    assert kept == {f"{manifest.shards[i].sha256}.tar" for i in (0, 2)}


def test_copy_with_another_checksum_is_never_kept(shards: str, tmp_path: Path) -> None:
    manifest = read_manifest(shards)
    wrong = replace(manifest.shards[0], sha256="0" * 64)
    with pytest.raises(UserError, match="its manifest says 0000"):
        ShardCache(str(tmp_path), 10**9).path(manifest.shard_location(0), wrong)
    assert not list(tmp_path.glob("*.tar"))
    assert not list(tmp_path.glob("_tmp-*"))


def test_remote_shards_give_the_same_batches_from_one_download_per_node(
    shards: str, tmp_path: Path, s3_server: dict[str, str]
) -> None:
    storage_client = boto3.client("s3")
    storage_client.create_bucket(Bucket="photographs")
    for path in Path(shards).iterdir():
        storage_client.upload_file(str(path), "photographs", f"set/{path.name}")
    config = BatchConfig(shards=shards, **SMALL)
    remote = replace(config, shards="s3://photographs/set", cache_folder=str(tmp_path))
    assert_same(take(remote, 3), take(config, 3))
    kept = {path.name: path.stat().st_ino for path in tmp_path.glob("*.tar")}
    assert len(kept) == 3
    for record in read_manifest(shards).shards:
        storage_client.delete_object(Bucket="photographs", Key=f"set/{record.name}")
    assert_same(take(remote, 2, rank=1, world_size=2), take(config, 2, rank=1, world_size=2))
    assert {path.name: path.stat().st_ino for path in tmp_path.glob("*.tar")} == kept


def test_processes_that_want_a_shard_at_once_download_it_once(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(shards)
    copies = []
    copy = reading._copy
    monkeypatch.setattr(reading, "_copy", lambda *a: copies.append(a) or copy(*a))
    cache = ShardCache(str(tmp_path), 10**9)
    location, record = manifest.shard_location(0), manifest.shards[0]
    with ThreadPoolExecutor(8) as pool:  # a lock on a file opened anew holds between threads, too
        paths = set(pool.map(lambda _: cache.path(location, record), range(8)))
    assert len(paths) == 1
    assert len(copies) == 1
