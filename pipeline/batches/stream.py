"""Batches for one worker, from any step on, forever."""

import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.architecture import Batch
from pipeline.batches.config import BatchConfig
from pipeline.batches.order import SampleOrder
from pipeline.batches.samples import SampleMaker, write_values
from pipeline.config import UserError
from pipeline.manifest import read_manifest
from pipeline.masks import number_for


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a stream stands among the workers, and what it reads."""

    config: BatchConfig
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        """Refuse unequal slices: means over them would not be means over the batch."""
        if self.config.batch_size % self.world_size:
            raise UserError(
                f"batch_size must be a multiple of the number of workers, found "
                f"{self.config.batch_size} for {self.world_size} workers"
            )

    @property
    def slice_size(self) -> int:
        """Samples per step of this worker."""
        return self.config.batch_size // self.world_size

    def visits(self, order: SampleOrder, step: int) -> list[tuple[int, int, int]]:
        """Return this worker's samples of a step: row, epoch, and which of its masks it is."""
        size, each = self.config.batch_size, self.config.masks_per_image
        rows = order.batch(step, size, self.rank, self.world_size, each)
        first = step * size + self.rank
        return [
            (row, epoch, (first + slot * self.world_size) % each)
            for slot, (epoch, row) in enumerate(rows)
        ]

    def seed(self, step: int) -> int:
        """Return the seed a batch carries, below 2^63."""
        return number_for("batch", self.config.seed, step, self.rank) % 2**63


class Loader(Protocol):
    """Makes the batches of one place in order."""

    def __next__(self) -> Batch:
        """Return the next step's batch."""
        ...

    def close(self) -> None:
        """Stop and let go of threads or tasks."""
        ...


class BatchStream:
    """This worker's slice of every global batch, from ``first_step`` on, forever.

    What a step holds depends on the shard set, the configuration and the step alone: not on the
    number of workers, threads or batches made ahead, nor on where an earlier run stopped.

    Args:
        config: what to read and how.
        rank: of this worker, from 0.
        world_size: number of workers; ``batch_size`` is a multiple of it.
        first_step: the first global step to deliver.

    Raises:
        UserError: if the shard set is unfinished or empty, or an image is smaller than the crop.
    """

    def __init__(
        self, config: BatchConfig, rank: int = 0, world_size: int = 1, first_step: int = 0
    ) -> None:
        self.wait_s = 0.0
        """Time the consumer has waited for batches so far."""
        place = Place(config=config, rank=rank, world_size=world_size)
        self._loader: Loader
        if config.loader == "ray":
            from pipeline.batches.clustered import (
                ClusterLoader,
            )  # imports Ray, which others need not

            self._loader = ClusterLoader(place, first_step)
        else:
            self._loader = ThreadLoader(place, first_step)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        batch = next(self._loader)
        self.wait_s += time.perf_counter() - start
        return batch

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the work that is under way."""
        self._loader.close()


@dataclass(kw_only=True)
class Pending:
    """A batch in the making: each task fills its own samples' part of the tensors."""

    step: int
    image: Tensor
    mask: Tensor
    keys: list[str]
    mask_ids: list[str]
    tasks: list[Future[None]] = field(default_factory=list)


class Buffers:
    """Memory for tensors, used again once nobody holds the last ones.

    New pages cost a tenth of the decoding of what goes into them, more on virtual machines.

    Args:
        most: arrays to remember; whoever holds more batches at once gets fresh ones.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.arrays: list[NDArray[np.float32]] = []

    def tensor(self, *shape: int) -> Tensor:
        """Return a tensor of that shape, whatever is in it."""
        if torch.cuda.is_available():
            return torch.empty(shape, pin_memory=True)  # PyTorch keeps these for use again
        for array in self.arrays:
            # A tensor's memory holds its array: the list, this loop and the call are all the rest.
            if array.shape == shape and sys.getrefcount(array) == 3:
                return torch.from_numpy(array)
        array = np.empty(shape, np.float32)
        if len(self.arrays) < self.most:
            self.arrays.append(array)
        return torch.from_numpy(array)


class ThreadLoader:
    """Reads, decodes and masks in this process's threads; OpenCV lets go of Python's lock."""

    def __init__(self, place: Place, first_step: int) -> None:
        # OpenCV's own threads would only take the cores from the other samples' decoding.
        cv2.setNumThreads(1)
        self.place, self.next_step = place, first_step
        config = place.config
        manifest = read_manifest(config.shards)
        self.maker = SampleMaker(config, manifest)
        self.order = SampleOrder(manifest.counts, config.seed, config.window_shards)
        self.pending: deque[Pending] = deque()
        # Those under way, the one in use and the one before it; image and mask each.
        self.buffers = Buffers(2 * (config.prefetch_batches + 3))
        self.pool = ThreadPoolExecutor(config.decode_threads, thread_name_prefix="decode")

    def __next__(self) -> Batch:
        while len(self.pending) <= self.place.config.prefetch_batches:
            self.pending.append(self._begin(self.next_step))
            self.next_step += 1
        ready = self.pending.popleft()
        for task in ready.tasks:
            task.result()
        return Batch(
            image=ready.image,
            mask=ready.mask,
            keys=tuple(ready.keys),
            mask_ids=tuple(ready.mask_ids),
            step=ready.step,
            seed=self.place.seed(ready.step),
        )

    def _begin(self, step: int) -> Pending:
        config, count = self.place.config, self.place.slice_size
        size = config.image_size_px
        pending = Pending(
            step=step,
            image=self.buffers.tensor(count, 3, size, size),
            mask=self.buffers.tensor(count, 1, size, size),
            keys=[""] * count,
            mask_ids=[""] * count,
        )
        visits = self.place.visits(self.order, step)
        share = math.ceil(count / config.decode_threads)  # one task per thread: few handovers
        for first in range(0, count, share):
            slots = range(first, min(first + share, count))
            pending.tasks.append(self.pool.submit(self._fill, pending, visits, slots))
        return pending

    def _fill(self, pending: Pending, visits: list[tuple[int, int, int]], slots: range) -> None:
        for slot in slots:
            row, epoch, turn = visits[slot]
            sample = self.maker.make(row, epoch, pending.step, turn)
            write_values(sample.pixels, pending.image[slot].numpy())
            pending.mask[slot, 0].numpy()[:] = sample.hole
            pending.keys[slot], pending.mask_ids[slot] = sample.key, sample.mask_id

    def close(self) -> None:
        """Let the threads finish the samples in hand, and forget the others."""
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.pending.clear()
