"""Prepare batches ahead of the training step, with a pool of workers."""

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infill.models.architecture import Batch
from infill.pipeline.loading.config import BatchConfig
from infill.pipeline.loading.dataset import InpaintingDataset, cache_for
from infill.pipeline.loading.packed_batch import PackedBatch
from infill.pipeline.loading.sampler import order_of
from infill.pipeline.loading.shard_prefetch import ShardPrefetcher
from infill.pipeline.loading.shared_manifest import read_shared
from infill.pipeline.loading.worker_context import WorkerShare
from infill.pipeline.manifest import Manifest

Names = list[tuple[str, str]]
"""Key and mask id of each sample."""
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class DecodeTask:
    """A run of consecutive samples of a batch."""

    slot: int
    """Index of the slot in the buffers."""
    first: int
    """Index in the batch of the first sample."""
    step: int
    visits: list[tuple[int, int, int]]
    """Row, epoch and mask number of each sample."""


class Pending(Protocol):
    """A task's future result."""

    def result(self) -> Names:
        """Wait for the names of the samples made.

        Raises:
            UserError: if a sample is damaged.
        """
        ...


class WorkerPool(Protocol):
    """Threads or processes that make samples."""

    frames: "SharedBuffers"

    def begin(self, task: DecodeTask) -> Pending:
        """Start a task on the next free worker."""
        ...

    def close(self) -> None:
        """Drop the tasks that have not begun, and end the workers."""
        ...


@dataclass(frozen=True, kw_only=True)
class BufferLayout:
    """Number and form of the slots for batches."""

    slots: int
    """Number of batches that fit."""
    count: int
    """Number of samples in each."""
    size_px: int
    """S, height and width of a sample."""
    packed: bool
    """Whether samples are bytes, pixels [S, S, 3] and mask bits [S, ceil(S / 8)], as they are sent
    to a GPU; otherwise they are the float32 values of a :class:`Batch`."""
    labelled: bool = False
    """Whether each sample has a label map, of its image's shape."""

    @property
    def dtype(self) -> type[np.generic]:
        """Type of the values."""
        return np.uint8 if self.packed else np.float32

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a batch's images."""
        size = self.size_px
        return (self.count, size, size, 3) if self.packed else (self.count, 3, size, size)

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """Shape of a batch's masks."""
        size = self.size_px
        return (self.count, size, -(-size // 8)) if self.packed else (self.count, 1, size, size)

    def sizes(self) -> tuple[int, int, int]:
        """Return the bytes of a batch's images, of its masks, and of its label maps."""
        each = np.dtype(self.dtype).itemsize
        images, masks = (math.prod(shape) * each for shape in (self.image_shape, self.mask_shape))
        return images, masks, images if self.labelled else 0

    def size(self) -> int:
        """Return the bytes of all slots."""
        return self.slots * sum(self.sizes())


class SharedBuffers:
    """Reusable slots for batches in one piece of memory.

    Allocating new pages costs a tenth of decoding into them, more on virtual machines.

    Args:
        memory: [:meth:`BufferLayout.size`] uint8.
        layout: of the slots.
    """

    def __init__(self, memory: Bytes, layout: "BufferLayout") -> None:
        self.layout = layout
        self.images: list[NDArray[Any]] = []
        self.masks: list[NDArray[Any]] = []
        self.labels: list[NDArray[Any]] = []
        image, mask, label = layout.sizes()
        for start in range(0, layout.size(), image + mask + label):
            images, masks = memory[start : start + image], memory[start + image :][:mask]
            labels = memory[start + image + mask :][:label]
            self.images.append(images.view(layout.dtype).reshape(layout.image_shape))
            self.masks.append(masks.view(layout.dtype).reshape(layout.mask_shape))
            if layout.labelled:
                self.labels.append(labels.view(layout.dtype).reshape(layout.image_shape))

    def fill(self, dataset: InpaintingDataset, task: DecodeTask) -> Names:
        """Make a task's samples in their slots.

        All images first, then all masks: the mask code stays in the processor's caches, which saves
        a third of its time.
        """
        part = slice(task.first, task.first + len(task.visits))
        images, masks = self.images[task.slot][part], self.masks[task.slot][part]
        packed = self.layout.packed
        write_image = dataset.write_pixels if packed else dataset.write_image
        write_mask = dataset.write_bits if packed else dataset.write_mask
        labels: Iterable[NDArray[Any] | None] = repeat(None, len(task.visits))
        if self.labels:
            labels = self.labels[task.slot][part]
        keys = [
            write_image(row, epoch, image, label)
            for (row, epoch, _), image, label in zip(task.visits, images, labels, strict=True)
        ]
        return [
            (key, write_mask(key, epoch, task.step, turn, mask))
            for key, (_, epoch, turn), mask in zip(keys, task.visits, masks, strict=True)
        ]

    def unused(self, slot: int) -> bool:
        """Return whether no tensor that was handed out still uses a slot."""
        # A tensor holds a reference to its array; the list and the call's argument are the others.
        kinds = (self.images, self.masks, self.labels)
        return all(sys.getrefcount(arrays[slot]) == 2 for arrays in kinds if arrays)


@dataclass(kw_only=True)
class PendingBatch:
    """A batch whose samples are being made."""

    step: int
    slot: int
    answers: list[Pending]
    rows: list[int]
    """The samples as row numbers of the manifest."""


class PrefetchLoader:
    """Prefetches batches with a pool of workers.

    Args:
        share: the worker's share of each step.
        first_step: the first step to deliver.
        pool: makes the pool from the configuration, the manifest, and the layout of the slots.
        packed: whether the batches are :class:`PackedBatch`, for a GPU.
    """

    def __init__(
        self,
        share: WorkerShare,
        first_step: int,
        pool: "Callable[[BatchConfig, Manifest, BufferLayout], WorkerPool]",
        packed: bool = False,
    ) -> None:
        self.share, self.next_step = share, first_step
        self.stand_ins = 0
        config = share.config
        manifest = read_shared(config.shards, config.cache_folder)
        self.keys = manifest.samples.column("key")
        self.order = order_of(manifest.counts, config)
        # The batches being made, the one in use and the one before it.
        self.slots = config.prefetch_batches + 3
        self.packed = packed
        layout = BufferLayout(
            slots=self.slots,
            count=share.slice_size,
            size_px=config.image_size_px,
            packed=packed,
            labelled=config.label_maps,
        )
        self.pool = pool(config, manifest, layout)
        cache = cache_for(manifest, config)
        self.ahead = ShardPrefetcher(manifest, cache, self.order, share.rank) if cache else None
        self.pending: deque[PendingBatch] = deque()

    def __next__(self) -> "Batch | PackedBatch":
        while len(self.pending) <= self.share.config.prefetch_batches:
            self.pending.append(self._begin(self.next_step))
            self.next_step += 1
        ready = self.pending.popleft()
        names = [pair for answer in ready.answers for pair in answer.result()]
        keys, mask_ids = zip(*names, strict=True)
        if self.share.config.skip_damaged:
            wanted = [str(self.keys[row].as_py()) for row in ready.rows]
            self.stand_ins += sum(map(str.__ne__, wanted, keys))
        frames = self.pool.frames
        facts: dict[str, Any] = {
            "keys": keys,
            "mask_ids": mask_ids,
            "step": ready.step,
            "seed": self.share.seed(ready.step),
        }
        image = self._handed_out(frames.images[ready.slot])
        mask = self._handed_out(frames.masks[ready.slot])
        if frames.labels:
            facts["labels"] = self._handed_out(frames.labels[ready.slot])
        if self.packed:
            return PackedBatch(pixels=image, bits=mask, **facts)
        return Batch(image=image, mask=mask, **facts)

    def _handed_out(self, values: NDArray[Any]) -> Tensor:
        """Return a batch's own memory, unless it is needed for the next or has to be pinned."""
        if self.packed and torch.cuda.is_available():
            # Kept by PyTorch for use again.
            pinned = torch.empty(values.shape, dtype=torch.uint8, pin_memory=True)
            return pinned.copy_(torch.from_numpy(values))
        tensor = torch.from_numpy(values)
        return tensor if self._free_slots() else tensor.clone()

    def _free_slots(self) -> list[int]:
        taken = {pending.slot for pending in self.pending}
        frames = self.pool.frames
        return [s for s in range(self.slots) if s not in taken and frames.unused(s)]

    def _begin(self, step: int) -> PendingBatch:
        config, slot = self.share.config, self._free_slots()[0]
        visits = self.share.visits(self.order, step)
        if self.ahead:
            self.ahead.enter([(epoch, row) for row, epoch, _ in visits])
        share = math.ceil(
            len(visits) / config.num_decode_workers
        )  # one task for each worker: few messages
        share = math.ceil(share / config.masks_per_image) * config.masks_per_image
        answers = []
        for first in range(0, len(visits), share):
            part = visits[first : first + share]
            task = DecodeTask(slot=slot, first=first, step=step, visits=part)
            answers.append(self.pool.begin(task))
        return PendingBatch(
            step=step, slot=slot, answers=answers, rows=[row for row, _, _ in visits]
        )

    def close(self) -> None:
        """Let the pool finish its current samples, and drop the others."""
        if self.ahead:
            self.ahead.close()
        self.pool.close()
        self.pending.clear()


class ThreadPool:
    """A pool of threads; OpenCV releases the GIL while it decodes."""

    def __init__(self, config: BatchConfig, manifest: Manifest, layout: BufferLayout) -> None:
        # OpenCV's own threads would compete with the decoding of other samples.
        cv2.setNumThreads(1)
        self.dataset = InpaintingDataset(config, manifest)
        self.frames = SharedBuffers(np.empty(layout.size(), np.uint8), layout)
        self.pool = ThreadPoolExecutor(config.num_decode_workers, thread_name_prefix="decode")

    def begin(self, task: DecodeTask) -> Future[Names]:
        """Start a task on the next free thread."""
        return self.pool.submit(self.frames.fill, self.dataset, task)

    def close(self) -> None:
        """Let the threads finish their current samples, and drop the others."""
        self.pool.shutdown(wait=True, cancel_futures=True)
