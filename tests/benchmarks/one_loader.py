"""Measure one way to batches in a process of its own, and print images per second as JSON.

python tests/benchmarks/one_loader.py ours SHARDS 2 1000

The number of cores is given by the caller, who pins the process to them.
"""

import itertools
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import cv2
import numpy as np
import torch

from infill.pipeline.images.tensors import write_values
from infill.pipeline.loading import BatchConfig, BatchStream, InpaintingDataset, order_of
from infill.pipeline.loading.shard_reader import ShardReader
from infill.pipeline.loading.worker_context import WorkerShare
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import MaskConfig

SIDE_PX = 256
BATCH = 32


def floor(shards: str, cores: int) -> Iterator[int]:
    """Read, decode, crop and normalise in a bare loop; no shuffling, mask or batch."""
    del cores
    cv2.setNumThreads(1)
    manifest = read_manifest(shards)
    reader = ShardReader(manifest, None, verify=False)
    planes = np.empty((3, SIDE_PX, SIDE_PX), np.float32)
    while True:
        for row in range(len(manifest)):
            image = cv2.imdecode(np.frombuffer(reader.read(row), np.uint8), cv2.IMREAD_COLOR_RGB)
            top, left = (image.shape[0] - SIDE_PX) // 2, (image.shape[1] - SIDE_PX) // 2
            write_values(image[top : top + SIDE_PX, left : left + SIDE_PX], planes)
            yield 1


def pillow(shards: str, cores: int) -> Iterator[int]:
    """Decode only, by the other decoder that is installed."""
    import io

    from PIL import Image

    del cores
    manifest = read_manifest(shards)
    reader = ShardReader(manifest, None, verify=False)
    while True:
        for row in range(len(manifest)):
            np.asarray(Image.open(io.BytesIO(reader.read(row))).convert("RGB"))
            yield 1


def configured(shards: str, cores: int) -> BatchConfig:
    """Return shuffled, cropped, mirrored batches with strokes as masks."""
    return BatchConfig(
        shards=shards,
        batch_size=BATCH,
        image_size_px=SIDE_PX,
        masks=MaskConfig(recipe="irregular"),
        loader="processes",
        num_decode_workers=cores,
    )


def ours(shards: str, cores: int) -> Iterator[int]:
    """Decode in this project's own processes."""
    with BatchStream(configured(shards, cores)) as stream:
        for batch in stream:
            yield len(batch.image)


class Batches(torch.utils.data.Dataset):
    """This project's samples, asked for a batch at a time by PyTorch's loader."""

    def __init__(self, config: BatchConfig) -> None:
        self.dataset = InpaintingDataset(config, read_manifest(config.shards))

    def __getitems__(self, visits: list[tuple[int, int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        images = np.empty((len(visits), 3, SIDE_PX, SIDE_PX), np.float32)
        masks = np.empty((len(visits), 1, SIDE_PX, SIDE_PX), np.float32)
        keys = [
            self.dataset.write_image(row, epoch, image)
            for (row, epoch, _), image in zip(visits, images, strict=True)
        ]
        for key, (_, epoch, turn), mask in zip(keys, visits, masks, strict=True):
            self.dataset.write_mask(key, epoch, 0, turn, mask)
        return torch.from_numpy(images), torch.from_numpy(masks)


def torch_loader(shards: str, cores: int) -> Iterator[int]:
    """Decode in ``torch.utils.data.DataLoader``'s processes, with our sampler and dataset."""
    config = configured(shards, cores)
    share = WorkerShare(config=config, rank=0, world_size=1)
    counts = read_manifest(shards).counts
    sampler = order_of(counts, config)
    loader = torch.utils.data.DataLoader(
        Batches(config),
        batch_sampler=(share.visits(sampler, step) for step in itertools.count()),
        num_workers=cores,
        prefetch_factor=config.prefetch_batches,
        collate_fn=lambda batch: batch,
        worker_init_fn=lambda worker: cv2.setNumThreads(1),
    )
    for images, _ in loader:
        yield len(images)


def augmentation() -> object:
    """Return the same crop, mirroring and scaling by albumentations."""
    import albumentations
    from albumentations.pytorch import ToTensorV2

    return albumentations.Compose(
        [
            albumentations.RandomCrop(SIDE_PX, SIDE_PX),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.Normalize(mean=(0.5,) * 3, std=(0.5,) * 3),
            ToTensorV2(),
        ]
    )


def tars(shards: str) -> list[str]:
    """Return the shards of a set."""
    return sorted(str(path) for path in Path(shards).glob("shard-*.tar"))


def webloader(shards: str, cores: int) -> Iterator[int]:
    """Read with ``webdataset.WebLoader`` and albumentations; no masks."""
    import webdataset

    transform = augmentation()

    def prepare(image: np.ndarray) -> torch.Tensor:
        return transform(image=image)["image"]

    data = (
        webdataset.WebDataset(tars(shards), shardshuffle=100, resampled=True)
        .shuffle(1000)
        .decode("rgb8")
        .to_tuple("jpg")
        .map_tuple(prepare)
        .batched(BATCH)
    )
    loader = webdataset.WebLoader(data, batch_size=None, num_workers=cores)
    for (images,) in loader:
        yield len(images)


def ray_data(shards: str, cores: int) -> Iterator[int]:
    """Read with ``ray.data.read_webdataset``, decode by its default, crop by albumentations."""
    import ray

    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=10**9,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    transform = augmentation()

    def prepare(row: dict) -> dict:
        return {"image": transform(image=np.asarray(row["jpg"]))["image"].numpy()}

    while True:
        data = ray.data.read_webdataset(tars(shards)).map(prepare)
        for batch in data.iter_torch_batches(batch_size=BATCH, local_shuffle_buffer_size=256):
            yield len(batch["image"])


def rate(batches: Iterator[int], images: int) -> float:
    """Return images per second after a warm-up of a quarter as many."""
    warm = 0
    while warm < images // 4:
        warm += next(batches)
    start, seen = time.perf_counter(), 0
    while seen < images:
        seen += next(batches)
    return seen / (time.perf_counter() - start)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    way, folder, cores, images = sys.argv[1:]
    torch.set_num_threads(1)
    ways = {
        "floor": floor,
        "pillow": pillow,
        "ours": ours,
        "torch": torch_loader,
        "webloader": webloader,
        "ray-data": ray_data,
    }
    print(json.dumps({"images_per_s": rate(ways[way](folder, int(cores)), int(images))}))
    sys.stdout.flush()
    os._exit(0)  # loaders that go on for ever are not waited for
