"""Load shards as shuffled, cropped, masked batches, the same on any cluster."""

from infill.pipeline.loading.batch_stream import BatchStream
from infill.pipeline.loading.config import BatchConfig, Crop
from infill.pipeline.loading.dataset import (
    InpaintingDataset,
    Sample,
    load_sample,
    load_whole,
    to_pixels,
    to_tensor,
)
from infill.pipeline.loading.sampler import StatelessSampler

__all__ = [
    "BatchConfig",
    "BatchStream",
    "Crop",
    "Sample",
    "InpaintingDataset",
    "StatelessSampler",
    "load_sample",
    "load_whole",
    "to_tensor",
    "to_pixels",
]
