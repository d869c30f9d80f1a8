"""Decode batches with Ray Data on free CPUs of the cluster.

Each worker makes a dataset of its own steps, in order; a task makes one step's slice. Pixels are
sent as bytes, a quarter of the size of the tensors, and become tensors on the worker.
"""

import json
from collections.abc import Generator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import ray.data
import torch
from numpy.typing import NDArray

from infill.models.architecture import Batch
from infill.pipeline.errors import UserError
from infill.pipeline.images.tensors import to_tensor
from infill.pipeline.loading.config import BatchConfig
from infill.pipeline.loading.dataset import InpaintingDataset
from infill.pipeline.loading.sampler import StatelessSampler, order_of
from infill.pipeline.loading.worker_context import WorkerShare
from infill.pipeline.manifest import read_manifest

Columns = dict[str, NDArray[Any]]

STEPS_PER_DATASET = 1000  # a dataset is finite; starting the next takes a fraction of a second


class RayLoader:
    """Iterates Ray datasets of this worker's steps, one after the other."""

    def __init__(self, share: WorkerShare, first_step: int) -> None:
        # Made here too, so that errors of the set are reported before anything starts.
        _recipe(share.config)
        self.stand_ins = 0
        self.batches = self._all(share, first_step)

    def __next__(self) -> Batch:
        return next(self.batches)

    def close(self) -> None:
        """Stop the current dataset."""
        self.batches.close()

    def _all(self, share: WorkerShare, first_step: int) -> Generator[Batch, None, None]:
        while True:
            for batch, stand_ins in _batches(share, first_step):
                self.stand_ins += stand_ins
                yield batch
            first_step += STEPS_PER_DATASET


def _batches(share: WorkerShare, first_step: int) -> Generator[tuple[Batch, int], None, None]:
    """Yield the batches of one dataset of steps, each with its number of stand-ins."""
    steps = ray.data.range(STEPS_PER_DATASET, override_num_blocks=STEPS_PER_DATASET)
    steps.context.execution_options.preserve_order = True
    made = steps.map_batches(partial(make_slice, share=share, first_step=first_step), batch_size=1)
    ahead = share.config.prefetch_batches
    for columns in made.iter_batches(batch_size=1, prefetch_batches=ahead):
        step = int(columns["step"][0])
        facts = json.loads(str(columns["facts"][0]))
        if "error" in facts:
            raise UserError(facts["error"])
        batch = Batch(
            image=to_tensor(columns["pixels"][0]),
            mask=torch.from_numpy(columns["holes"][0].astype(np.float32))[:, None],
            keys=tuple(facts["keys"]),
            mask_ids=tuple(facts["mask_ids"]),
            labels=to_tensor(columns["labels"][0]) if "labels" in columns else None,
            step=step,
            seed=share.seed(step),
        )
        yield batch, int(facts["stand_ins"])


def make_slice(columns: Columns, share: WorkerShare, first_step: int) -> Columns:
    """Make one step's slice. In a task on any node.

    A damaged sample is reported in the row: an exception would arrive wrapped, without its
    sentence, after a page of tracebacks.
    """
    step = first_step + int(columns["id"][0])
    size = share.config.image_size_px
    pixels = np.zeros((share.slice_size, size, size, 3), np.uint8)
    holes = np.zeros((share.slice_size, size, size), np.uint8)
    labels = {"labels": np.zeros_like(pixels)} if share.config.label_maps else {}
    try:
        dataset, order = _recipe(share.config)
        visits = share.visits(order, step)
        samples = [dataset.make(row, epoch, step, turn) for row, epoch, turn in visits]
    except UserError as error:
        facts: dict[str, object] = {"error": str(error)}
    else:
        np.stack([s.pixels for s in samples], out=pixels)
        np.stack([s.hole for s in samples], out=holes)
        for maps in labels.values():
            np.stack([s.labels for s in samples if s.labels is not None], out=maps)
        wanted = [dataset.reader.key(row) for row, _, _ in visits]
        facts = {
            "keys": [s.key for s in samples],
            "mask_ids": [s.mask_id for s in samples],
            "stand_ins": sum(s.key != key for s, key in zip(samples, wanted, strict=True)),
        }
    return {
        "step": np.array([step]),
        "pixels": pixels[None],
        "holes": holes[None],
        **{name: maps[None] for name, maps in labels.items()},
        "facts": np.array([json.dumps(facts)]),
    }


@lru_cache(maxsize=2)
def _recipe(config: BatchConfig) -> tuple[InpaintingDataset, StatelessSampler]:
    """Read the manifest once per process."""
    manifest = read_manifest(config.shards)
    return InpaintingDataset(config, manifest), order_of(manifest.counts, config)
