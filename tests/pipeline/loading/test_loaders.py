"""Threads, processes and Ray make the same batches, ahead of the one in use."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infill.models.spn.config import SPNConfig
from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig, BatchStream, ray_loader, workers
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import MaskConfig
from infill.pipeline.training import TrainConfig
from infill.pipeline.training.validation import Validator

ROOT = Path(__file__).parents[3]
SMALL = {"image_size_px": 32, "batch_size": 6, "masks": MaskConfig(recipe="box"), "seed": 3}


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
    shards: str, ray_local: None, monkeypatch: pytest.MonkeyPatch, take, assert_same
) -> None:
    monkeypatch.setattr(ray_loader, "STEPS_PER_DATASET", 3)  # four steps need a second dataset
    config = BatchConfig(shards=shards, colour_jitter=0.05, **SMALL)
    place = {"rank": 1, "world_size": 2, "first_step": 1}
    assert_same(take(replace(config, loader="ray"), 4, **place), take(config, 4, **place))


def test_ray_reports_a_damaged_sample_in_the_same_sentence(
    pictures: list[bytes],
    tmp_path: Path,
    ray_local: None,
    write_set,
    take,
) -> None:
    path = Path(write_set(tmp_path, pictures[:3], per_shard=3)) / "shard-00000.tar"
    os.truncate(path, 700)
    config = BatchConfig(shards=str(tmp_path), loader="ray", **SMALL)
    with pytest.raises(UserError, match=r"^sample 'p00\d' in shard .* is damaged: .* --repair`$"):
        take(config, 1)


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


def test_threads_and_prefetch_do_not_change_a_batch(shards: str, take, assert_same) -> None:
    config = BatchConfig(shards=shards, **SMALL)
    expected = take(replace(config, num_decode_workers=1, prefetch_batches=0), 5)
    assert_same(take(replace(config, num_decode_workers=4, prefetch_batches=3), 5), expected)


def test_waiting_is_counted(shards: str) -> None:
    with BatchStream(BatchConfig(shards=shards, prefetch_batches=0, **SMALL)) as stream:
        assert stream.wait_s == 0
        next(stream)
        first = stream.wait_s
        next(stream)
        assert 0 < first < stream.wait_s


PLACES = ({}, {"rank": 1, "world_size": 2, "first_step": 1})


@pytest.mark.parametrize("place", PLACES, ids=["alone", "second of two"])
def test_processes_make_the_same_batches_to_the_bit(shards, place, take, assert_same) -> None:
    config = BatchConfig(shards=shards, colour_jitter=0.05, **SMALL)
    beside = replace(config, loader="processes", num_decode_workers=2, prefetch_batches=1)
    assert_same(take(beside, 7, **place), take(config, 7, **place))


def test_processes_report_a_damaged_sample_in_the_same_sentence(
    pictures, tmp_path, write_set, take
) -> None:
    path = Path(write_set(tmp_path, pictures[:3], per_shard=3)) / "shard-00000.tar"
    os.truncate(path, 700)
    config = BatchConfig(shards=str(tmp_path), loader="processes", **SMALL)
    with pytest.raises(UserError, match=r"^sample 'p00\d' in shard .* is damaged: .* --repair`$"):
        take(config, 1)


def test_killed_decoders_cost_no_sample(shards, take, assert_same) -> None:
    config = BatchConfig(shards=shards, **SMALL)
    with BatchStream(replace(config, loader="processes", num_decode_workers=2)) as stream:
        found = [next(stream)]
        for _ in range(2):
            for decoder in stream._loader.pool.decoders:
                decoder.process.kill()
            found += [next(stream) for _ in range(3)]
    assert_same(found, take(config, 7))


def test_decoder_that_always_dies_ends_the_stream_with_a_reason(shards, monkeypatch) -> None:
    monkeypatch.setattr(workers, "PROGRAM", "import os, signal; os.kill(os.getpid(), 9)")
    with (
        BatchStream(BatchConfig(shards=shards, loader="processes", **SMALL)) as stream,
        pytest.raises(RuntimeError, match=r"died 4 times, at last with status -9 .*memory ran out"),
    ):
        next(stream)


WORKER = """
import sys, time
from infill.pipeline.manifest import read_manifest
from infill.pipeline.loading import BatchConfig, BatchStream
stream = BatchStream(BatchConfig(shards=sys.argv[1], image_size_px=32, loader="processes"))
next(stream)
print(*(decoder.process.pid for decoder in stream._loader.pool.decoders), flush=True)
time.sleep(600)
"""


def running(pid: str) -> bool:
    """Tell whether a process is there and not merely waiting to be forgotten."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_decoders_do_not_outlive_a_killed_worker(shards) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, shards], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    decoders = worker.stdout.readline().split()
    assert [running(pid) for pid in decoders] == [True, True]
    worker.kill()
    worker.wait()
    worker.stdout.close()
    deadline = time.monotonic() + 120
    while any(running(pid) for pid in decoders) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [running(pid) for pid in decoders] == [False, False]


@pytest.mark.parametrize("loader", ["threads", "processes"])
def test_consumer_may_keep_every_batch(loader, shards, take, assert_same) -> None:
    config = BatchConfig(shards=shards, prefetch_batches=0, **SMALL)
    with BatchStream(replace(config, loader=loader)) as stream:
        kept = [next(stream) for _ in range(12)]
    assert_same(kept, [batch for batch in take(replace(config, prefetch_batches=9), 12)])


def damaged_set(pictures: list[bytes], folder: Path, write_set: Callable[..., str]) -> str:
    """Write a set and destroy two images that follow each other, and the last."""
    location = write_set(folder, pictures[:6], per_shard=3)
    for row in read_manifest(location).samples.to_pylist():
        if row["key"] in ("p002", "p003", "p005"):
            with open(folder / f"shard-{row['shard']:05d}.tar", "r+b") as shard:
                shard.seek(row["offset"])
                shard.write(b"\0" * row["size"])
    return location


@pytest.mark.parametrize("loader", ["threads", "processes"])
def test_damaged_samples_are_replaced_by_the_next_intact_one_on_any_number_of_workers(
    loader: str, pictures: list[bytes], tmp_path: Path, write_set, caplog: pytest.LogCaptureFixture
) -> None:
    location = damaged_set(pictures, tmp_path, write_set)
    config = BatchConfig(shards=location, loader=loader, skip_damaged=True, **SMALL)

    def seen(rank: int, world_size: int) -> tuple[list[list[tuple[str, bytes]]], int]:
        with BatchStream(config, rank=rank, world_size=world_size) as stream:
            batches = [next(stream) for _ in range(4)]
            images = [[image.numpy().tobytes() for image in batch.image] for batch in batches]
            pairs = zip(batches, images, strict=True)
            return [list(zip(b.keys, i, strict=True)) for b, i in pairs], stream.stand_ins

    (alone, count), (first, one), (second, two) = seen(0, 1), seen(0, 2), seen(1, 2)
    # Four batches of six are four epochs; p004 stands in for both before it, p000 for the last.
    assert Counter(key for batch in alone for key, _ in batch) == {
        "p000": 8,
        "p001": 4,
        "p004": 12,
    }
    assert count == one + two == 12
    for whole, left, right in zip(alone, first, second, strict=True):
        assert sorted(whole) == sorted(left + right)
    if loader == "threads":
        named = [record.message for record in caplog.records if "left out" in record.message]
        assert any("'p002' in shard" in message for message in named)


def test_a_set_without_an_intact_sample_is_refused(pictures, tmp_path, write_set, take) -> None:
    location = write_set(tmp_path, pictures[:3], per_shard=3)
    os.truncate(tmp_path / "shard-00000.tar", 100)
    with pytest.raises(UserError, match=r"3 samples in a row are damaged, the last: sample 'p00"):
        take(BatchConfig(shards=location, skip_damaged=True, **SMALL), 1)


def test_a_damaged_validation_sample_is_named_and_left_out_or_ends_the_run(
    pictures, tmp_path, write_set, caplog
) -> None:
    manifest = read_manifest(damaged_set(pictures, tmp_path, write_set))
    data = BatchConfig(shards=manifest.location, **SMALL)
    config = TrainConfig(model=SPNConfig(), data=data, storage="unused", validation_samples=6)
    with pytest.raises(UserError, match="sample 'p002' in shard"):
        Validator(config, torch.device("cpu"), manifest)
    skipping = replace(config, data=replace(data, skip_damaged=True))
    assert len(Validator(skipping, torch.device("cpu"), manifest).pairs) == 6
    named = [record.message for record in caplog.records if "left out" in record.message]
    assert len(named) == 3
    assert "sample 'p002' in shard" in named[0]
