"""Batches that cross a bus as bytes are the same batches."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from infill.models.architecture import Batch
from infill.pipeline.loading import BatchConfig, BatchStream
from infill.pipeline.loading.packed_batch import PackedBatch, on_device
from infill.pipeline.loading.prefetch import PrefetchLoader, ThreadPool
from infill.pipeline.loading.worker_context import WorkerShare
from infill.pipeline.loading.workers import ProcessPool
from infill.pipeline.masks import MaskConfig


@pytest.mark.parametrize("pool", [ThreadPool, ProcessPool])
@pytest.mark.parametrize("side", [32, 27])
def test_bytes_become_the_same_values(pool, side: int, shards: str, take, assert_same) -> None:
    config = BatchConfig(
        shards=shards,
        batch_size=4,
        image_size_px=side,
        masks=MaskConfig(recipe="strokes"),
        num_decode_workers=1,
    )
    share = WorkerShare(config=config, rank=0, world_size=1)
    loader = PrefetchLoader(share, 0, pool, packed=True)
    packed = list(islice(iter(loader.__next__, None), 3))
    assert all(isinstance(batch, PackedBatch) for batch in packed)
    assert packed[0].pixels.shape == (4, side, side, 3)
    assert packed[0].bits.shape == (4, side, -(-side // 8))
    batches = [batch.to("cpu") for batch in packed]
    loader.close()
    assert_same(batches, take(config, 3))
    assert all(batch.mask.unique().tolist() == [0, 1] for batch in batches)


def test_batches_for_a_cpu_are_neither_packed_nor_pinned(shards: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a GPU that is not used here
    config = BatchConfig(shards=shards, batch_size=2, image_size_px=32)
    with BatchStream(config) as stream:
        batch = next(stream)
    assert isinstance(batch, Batch)
    assert batch.image.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("loader", ["threads", "processes"])
def test_batches_on_a_gpu_are_those_of_a_cpu(loader: str, shards: str, take, assert_same) -> None:
    config = BatchConfig(shards=shards, batch_size=4, image_size_px=32, loader=loader)
    device = torch.device("cuda", 0)
    with BatchStream(config, device=device) as stream:
        batches = [next(stream) for _ in range(4)]
        assert {batch.image.device for batch in batches} == {device}
        batches = [
            replace(batch, image=batch.image.cpu(), mask=batch.mask.cpu()) for batch in batches
        ]
    assert_same(batches, take(config, 4))


@pytest.mark.gpu
def test_the_next_batch_is_copied_before_it_is_asked_for(shards: str) -> None:
    taken = []

    def batches():
        for step in range(3):
            taken.append(step)
            pixels = torch.full((2, 8, 8, 3), step, dtype=torch.uint8).pin_memory()
            bits = torch.zeros((2, 8, 1), dtype=torch.uint8).pin_memory()
            yield PackedBatch(pixels=pixels, bits=bits, keys=(), mask_ids=(), step=step, seed=0)

    placed = on_device(batches(), torch.device("cuda", 0))
    first = next(placed)
    assert taken == [0, 1]
    assert first.step == 0
    torch.testing.assert_close(first.image.cpu(), torch.full((2, 3, 8, 8), -1.0))
