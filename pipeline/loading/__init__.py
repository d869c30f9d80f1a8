"""Load shards as shuffled, cropped, masked batches, the same on any cluster."""

from pipeline.loading.batch_stream import BatchStream
from pipeline.loading.config import BatchConfig, Crop
from pipeline.loading.dataset import (
    InpaintingDataset,
    Sample,
    load_sample,
    load_whole,
    to_pixels,
    to_tensor,
)
from pipeline.loading.sampler import StatelessSampler

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
