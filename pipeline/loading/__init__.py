"""Load shards as shuffled, cropped, masked batches, the same on any cluster."""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.loading.batch_stream import BatchStream
    from infill.pipeline.loading.config import BatchConfig, Crop
    from infill.pipeline.loading.dataset import (
        InpaintingDataset,
        Sample,
        load_sample,
        load_whole,
    )
    from infill.pipeline.loading.sampler import StatelessSampler, order_of
    from infill.pipeline.loading.tar_index import left_out, open_set, set_digest
    from infill.pipeline.loading.tar_names import names_tars

__all__ = [
    "BatchConfig",
    "BatchStream",
    "Crop",
    "Sample",
    "InpaintingDataset",
    "StatelessSampler",
    "left_out",
    "load_sample",
    "load_whole",
    "names_tars",
    "open_set",
    "order_of",
    "set_digest",
]

__getattr__ = lazy_names(
    __name__,
    {
        "batch_stream": ("BatchStream",),
        "config": ("BatchConfig", "Crop"),
        "dataset": (
            "InpaintingDataset",
            "Sample",
            "load_sample",
            "load_whole",
        ),
        "sampler": ("StatelessSampler", "order_of"),
        "tar_index": ("left_out", "open_set", "set_digest"),
        "tar_names": ("names_tars",),
    },
)
