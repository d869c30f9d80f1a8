"""Batches from WebDataset tars that have no manifest, through webdataset's own pipeline.

It uses webdataset's shuffle and its splitting of tars among nodes and workers. It lacks the
guarantees of a shard set: a resumed run starts a new pass, each worker needs a tar, and another
number of workers sees other batches.
"""

import itertools
import logging
import math
import multiprocessing
import re
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from infill.models.architecture import Batch
from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.images import Pixels, RejectedError
from infill.pipeline.images.tensors import write_values
from infill.pipeline.loading.config import BatchConfig
from infill.pipeline.loading.dataset import SampleTransform, decode_any
from infill.pipeline.loading.tar_names import (
    expand,
    image_of,
    key_of,
    missing,
    no_image,
    packed,
    parts_of,
    repeated,
    require_tar_for_each,
)
from infill.pipeline.loading.worker_context import WorkerShare
from infill.pipeline.masks import number_for
from infill.pipeline.tar_reader import DECOMPRESSION_ERRORS, GZIP, decompressed, open_tar

SAMPLES_PER_SHARD = 128
"""Size of the shuffle buffer in encoded images, for each shard of shuffle_window_shards."""
MOST_DAMAGED = 0.05
"""Maximum share of unreadable images in a pass; more end the run."""

_META = r"__[^/]*__($|/)"
"""Names of files that describe a tar and hold no sample."""

Encoded = tuple[str, bytes]
"""Key and bytes of an image."""
Arrays = tuple[torch.Tensor, torch.Tensor, list[str], list[str]]
Made = Arrays | UserError
"""A batch, or the error: a DataLoader would wrap an exception of its process."""

logger = logging.getLogger(__name__)


class WebDatasetLoader:
    """Makes one worker's batches from tars, in processes or in a thread ahead of the step.

    Args:
        share: the worker's share of each step.
        first_step: the first step to deliver; it also decides the order of this pass.

    Raises:
        UserError: if there are fewer tars than workers, or the loader is Ray's.
    """

    def __init__(self, share: WorkerShare, first_step: int) -> None:
        config = share.config
        if config.loader == "ray":
            raise UserError("--data.loader ray needs a shard set; WebDataset tars take processes")
        if config.label_maps:
            raise UserError(
                "--data.label-maps needs a shard set made by `python jobs/make_shards.py --labels "
                "FOLDER`; tars without a manifest have images alone"
            )
        tars = expand(config.shards)
        require_tar_for_each(config.shards, share.world_size)
        mine = tars[share.rank :: share.world_size]
        if share.slice_size % config.masks_per_image:
            raise UserError(
                f"each of {share.world_size} workers takes {share.slice_size} samples a step, "
                f"which is not a multiple of masks_per_image ({config.masks_per_image}); give a "
                "larger --data.batch-size or fewer workers"
            )
        self.share, self.step = share, first_step
        self.stand_ins = 0  # damaged images of tars are left out without one
        processes = config.loader == "processes"
        workers = min(config.num_decode_workers, len(mine)) if processes else 0
        stream = TarStream(share, tuple(tars), first_step)
        self.ahead = ThreadPoolExecutor(1, thread_name_prefix="webdataset")
        self.batches: Iterator[Made] = iter(
            DataLoader(
                stream,
                batch_size=None,
                num_workers=workers,
                prefetch_factor=max(1, config.prefetch_batches) if workers else None,
                multiprocessing_context=multiprocessing.get_context("forkserver")
                if workers
                else None,
            )
        )
        self.pending: list[Future[Made]] = []

    def __next__(self) -> Batch:
        while len(self.pending) <= self.share.config.prefetch_batches:
            self.pending.append(self.ahead.submit(next, self.batches))
        made = self.pending.pop(0).result()
        if isinstance(made, UserError):
            raise made
        images, holes, keys, mask_ids = made
        step, self.step = self.step, self.step + 1
        return Batch(
            image=images,
            mask=holes,
            keys=tuple(keys),
            mask_ids=tuple(mask_ids),
            step=step,
            seed=self.share.seed(step),
        )

    def close(self) -> None:
        """Stop reading; the processes end with the iterator."""
        self.ahead.shutdown(wait=True, cancel_futures=True)
        self.pending.clear()
        del self.batches


@dataclass
class TarStream(IterableDataset[Made]):
    """An endless stream of batches; each DataLoader process reads its own part of the tars."""

    share: WorkerShare
    tars: tuple[str, ...]
    first_step: int

    def __iter__(self) -> Iterator[Made]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        images = _Images(self.share.config)
        encoded = iter(_pipeline(self.share, self.tars, self.first_step, images))
        for number in itertools.count():
            step = self.first_step + number * workers + worker
            try:
                yield images.batch(encoded, step, self.share)
            except OSError as error:
                shards = self.share.config.shards
                yield UserError(f"{shards} cannot be read: {error}; copy or make it again")
            except UserError as error:
                yield error


def _pipeline(
    share: WorkerShare, tars: tuple[str, ...], first_step: int, images: "_Images"
) -> Iterable[Encoded]:
    import webdataset

    config = share.config
    seed = number_for("webdataset", config.seed, first_step)
    buffer = SAMPLES_PER_SHARD * config.shuffle_window_shards
    pipeline: Iterable[Encoded] = webdataset.DataPipeline(
        webdataset.SimpleShardList(list(tars)),
        lambda source: itertools.islice(source, share.rank, None, share.world_size),
        webdataset.split_by_worker,
        webdataset.detshuffle(len(tars), seed=seed),
        _opened,
        _members,
        webdataset.tariterators.group_by_keys,
        images.found,
        webdataset.detshuffle(buffer, initial=buffer, seed=seed),
    ).repeat()
    return pipeline


def _opened(source: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Open each tar, and close it when it has been read."""
    for item in source:
        url = item["url"]
        try:
            with storage.open_binary(url) as stream:
                remembering = _Tail(decompressed(stream, url))
                yield {**item, "stream": remembering}
                if any(remembering.tail):
                    raise UserError(
                        f"{url} is truncated: its last block is not empty, as in every complete "
                        "tar; copy or make it again"
                    )
        except FileNotFoundError as error:
            raise missing(url) from error


def _members(source: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the files of opened tars, and an empty record after each tar, as webdataset does.

    Its own function ends at the first end mark, and so in the middle of joined tars.
    """
    for item in source:
        try:
            current, endings = "", set[str]()
            with open_tar(item["stream"], "r|*") as opened:
                if item["stream"].head == GZIP:
                    raise packed(item["url"])
                for member in opened:
                    opened.members = []  # type: ignore[attr-defined]  # or it keeps all
                    file = opened.extractfile(member) if member.isreg() else None
                    if file is None or re.match(_META, member.name):
                        continue
                    sample, ending = parts_of(member.name)
                    if sample != current:
                        current, endings = sample, set()
                    if sample and ending in endings:
                        raise repeated(item["url"], member.name)
                    endings.add(ending)
                    yield {"fname": member.name, "data": file.read(), "__url__": item["url"]}
            yield {}
        except (tarfile.TarError, OSError, *DECOMPRESSION_ERRORS) as error:
            raise UserError(
                f"{item['url']} cannot be read: {error}; copy or make it again"
            ) from error


class _Tail:
    """A stream that remembers its begin and its last block: tarfile accepts truncated tars."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.head, self.tail = stream, b"", b""

    def read(self, size: int = -1) -> bytes:
        """Read, as a file does."""
        data = self.stream.read(size)
        self.head = self.head or data[: len(GZIP)]
        self.tail = (self.tail + data)[-tarfile.BLOCKSIZE :]
        return data


class _Images:
    """Finds the images of samples, and makes batches of them."""

    def __init__(self, config: BatchConfig) -> None:
        self.config, self.epoch = config, -1
        self.transform = SampleTransform(config)
        self.seen = self.damaged = 0

    def found(self, samples: Iterable[dict[str, Any]]) -> Iterator[Encoded]:
        """Yield the images of one pass; a pass without any ends the run."""
        self.epoch, self.seen, self.damaged = self.epoch + 1, 0, 0
        for sample in samples:
            name, tar = sample["__key__"], sample["__url__"]
            members = [member for member in sample if not member.startswith("__")]
            for member in image_of(name, members, self.config.image_member, tar):
                self.seen += 1
                yield key_of(tar, name, member), sample[member]
        if not self.seen:
            raise no_image(self.config.shards, self.config.image_member)

    def batch(self, encoded: Iterator[Encoded], step: int, share: WorkerShare) -> Arrays:
        """Return the next batch: images in [-1, 1], holes, keys and mask ids."""
        config, size = self.config, self.config.image_size_px
        images = np.empty((share.slice_size, 3, size, size), np.float32)
        holes = np.empty((share.slice_size, 1, size, size), np.float32)
        keys, mask_ids = [], []
        for first in range(0, share.slice_size, config.masks_per_image):
            key, pixels = self._next(encoded)
            window = np.ascontiguousarray(self.transform.view(pixels, key, self.epoch))
            for turn in range(config.masks_per_image):
                write_values(window, images[first + turn])
                mask = self.transform.mask(key, self.epoch, step, turn)
                holes[first + turn, 0] = mask.hole
                keys.append(key)
                mask_ids.append(mask.id)
        return torch.from_numpy(images), torch.from_numpy(holes), keys, mask_ids

    def _next(self, encoded: Iterator[Encoded]) -> tuple[str, Pixels]:
        """Return the next image that can be decoded; log those that cannot."""
        for key, data in encoded:
            try:
                pixels = decode_any(data)
            except RejectedError as error:
                self.damaged += 1
                logger.warning("%s is left out: %s", key, error)
                if self.damaged > max(10, math.ceil(MOST_DAMAGED * self.seen)):
                    raise UserError(
                        f"{self.damaged} of {self.seen} images of {self.config.shards} cannot be "
                        f"read, the last is {key}: {error}; `python jobs/make_shards.py archives "
                        "--source FOLDER` makes a shard set of the others in a folder's tars"
                    ) from error
                continue
            return key, self._large_enough(key, pixels)
        raise AssertionError("the stream is endless")

    def _large_enough(self, key: str, pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        if self.config.keeps_scale and min(height, width) < self.config.image_size_px:
            raise UserError(
                f"sample {key!r} of {self.config.shards} is {width}x{height} px, smaller than the "
                f"crop of {self.config.image_size_px} px; give a smaller --data.image-size-px, or "
                "--data.crop squash, or --data.enlarge-small-images"
            )
        return pixels
