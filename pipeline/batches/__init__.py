"""Shards to shuffled, cropped, masked batches of tensors, the same ones on any cluster."""

from pipeline.batches.config import BatchConfig, Crop
from pipeline.batches.order import SampleOrder
from pipeline.batches.samples import (
    Sample,
    SampleMaker,
    load_sample,
    load_whole,
    to_model,
    to_pixels,
)
from pipeline.batches.stream import BatchStream

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
