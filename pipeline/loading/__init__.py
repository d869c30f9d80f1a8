"""Load shards as shuffled, cropped, masked batches, the same on any cluster."""

from pipeline.loading.batch_stream import BatchStream
from pipeline.loading.config import BatchConfig, Crop
from pipeline.loading.dataset import (
    Sample,
    SampleMaker,
    load_sample,
    load_whole,
    to_model,
    to_pixels,
)
from pipeline.loading.sampler import SampleOrder

__all__ = [
    "BatchConfig",
    "BatchStream",
    "Crop",
    "Sample",
    "SampleMaker",
    "SampleOrder",
    "load_sample",
    "load_whole",
    "to_model",
    "to_pixels",
]
