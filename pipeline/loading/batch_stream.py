"""The endless stream of batches of one worker, from any step on."""

import time
from collections.abc import Iterator
from typing import Protocol

import torch

from infill.models.architecture import Batch
from infill.pipeline.loading.config import BatchConfig
from infill.pipeline.loading.packed_batch import PackedBatch, on_device
from infill.pipeline.loading.prefetch import PrefetchLoader, ThreadPool
from infill.pipeline.loading.tar_names import names_tars
from infill.pipeline.loading.worker_context import WorkerShare
from infill.pipeline.loading.workers import ProcessPool


class Loader(Protocol):
    """Makes the batches of one worker in order."""

    stand_ins: int
    """Number of samples so far that stand in for damaged ones."""

    def __next__(self) -> Batch | PackedBatch:
        """Return the next step's batch."""
        ...

    def close(self) -> None:
        """Stop, and release threads or tasks."""
        ...


class BatchStream:
    """This worker's slice of every global batch, from ``first_step`` on, forever.

    The samples of a step depend on the shard set, the configuration and the step alone: not on the
    number of workers, threads or prefetched batches, nor on the step at which an earlier run
    stopped. Tars without a manifest come through webdataset, which promises less; see ``given_up``.

    Args:
        config: the dataset and the settings.
        rank: of this worker, from 0.
        world_size: number of workers; ``batch_size`` is a multiple of it.
        first_step: the first global step to deliver.
        device: where the batches are used. For a GPU they come as bytes, which become values there,
            and each batch is copied while the step before it is computed.

    Raises:
        UserError: if the shard set is unfinished or empty, or an image is smaller than the crop.
    """

    def __init__(
        self,
        config: BatchConfig,
        rank: int = 0,
        world_size: int = 1,
        first_step: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.wait_s = 0.0
        """Seconds that the consumer has waited for batches so far."""
        share = WorkerShare(config=config, rank=rank, world_size=world_size)
        device = torch.device(device)
        self._loader = _loader(share, first_step, packed=device.type == "cuda")
        self._placed = on_device(self._timed(), device)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._placed)

    @property
    def stand_ins(self) -> int:
        """Number of samples so far that stand in for damaged ones (``skip_damaged``)."""
        return self._loader.stand_ins

    def _timed(self) -> Iterator[Batch | PackedBatch]:
        while True:
            start = time.perf_counter()
            batch = next(self._loader)
            self.wait_s += time.perf_counter() - start
            yield batch

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the running tasks."""
        self._loader.close()


def _loader(share: WorkerShare, first_step: int, packed: bool) -> Loader:
    if names_tars(share.config.shards):
        from infill.pipeline.loading.webdataset_loader import WebDatasetLoader  # a second's import

        return WebDatasetLoader(share, first_step)
    if share.config.loader == "ray":
        from infill.pipeline.loading.ray_loader import (
            RayLoader,  # the only loader that imports Ray
        )

        return RayLoader(share, first_step)
    if share.config.loader == "processes":
        return PrefetchLoader(share, first_step, ProcessPool, packed)
    return PrefetchLoader(share, first_step, ThreadPool, packed)
