"""Batches as bytes, for the way to a GPU: a quarter of their values' size.

Pixels are bytes and masks are bits until they are on the device. The copy of a batch runs on a
stream of its own while the step before it is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from infill.models.architecture import Batch
from infill.pipeline.images.tensors import values_of


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Samples of one step as bytes."""

    pixels: Tensor
    """RGB, [B, S, S, 3] uint8."""
    bits: Tensor
    """[B, S, ceil(S / 8)] uint8: a bit is 1 in the hole; the first pixel is the highest bit."""
    keys: tuple[str, ...]
    mask_ids: tuple[str, ...]
    step: int
    seed: int
    labels: Tensor | None = None
    """Label maps like ``pixels``, for a model that takes them."""

    def to(self, device: torch.device | str) -> Batch:
        """Copy the bytes to a device, and return their values there: the same as on a CPU."""
        image = values_of(self.pixels.to(device, non_blocking=True))
        bits = self.bits.to(device, non_blocking=True)
        labels = None
        if self.labels is not None:
            labels = values_of(self.labels.to(device, non_blocking=True))
        size = image.shape[2]
        shifts = torch.arange(7, -1, -1, device=device, dtype=torch.uint8)
        holes = (bits[..., None] >> shifts) & 1
        return Batch(
            image=image,
            mask=holes.flatten(2)[..., :size].float()[:, None],
            keys=self.keys,
            mask_ids=self.mask_ids,
            labels=labels,
            step=self.step,
            seed=self.seed,
        )


def on_device(batches: Iterator[Batch | PackedBatch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on a device; for a GPU, the next one is copied while one is used."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copies):
            moved = batch.to(device)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(copies)
        if waiting is not None:
            yield _ready(*waiting)
        waiting = moved, copied
    if waiting is not None:
        yield _ready(*waiting)


def _ready(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Have the current stream wait for a copy, and keep its memory until that stream used it."""
    stream = torch.cuda.current_stream(batch.image.device)
    stream.wait_event(copied)
    batch.image.record_stream(stream)
    batch.mask.record_stream(stream)
    if batch.labels is not None:
        batch.labels.record_stream(stream)
    return batch
