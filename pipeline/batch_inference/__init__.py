"""Inpaint folders and shard sets.

``config`` is the configuration, and ``pairs`` finds the mask of each image. ``endpoint`` sends a
folder to an endpoint; ``ray_data`` inpaints it on Ray Data, and ``shards`` does the same for a
shard set.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.batch_inference.config import BatchInferenceConfig
    from infill.pipeline.batch_inference.endpoint import endpoint_model, run_on_endpoint
    from infill.pipeline.batch_inference.pairs import Pair, list_pairs
    from infill.pipeline.batch_inference.ray_data import run_offline
    from infill.pipeline.batch_inference.runner import (
        FolderWork,
        Outcome,
        Summary,
        begin_folder,
        inpaint_folder,
    )
    from infill.pipeline.batch_inference.shards import inpaint_shards, is_shard_set

__all__ = [
    "BatchInferenceConfig",
    "FolderWork",
    "Outcome",
    "Pair",
    "Summary",
    "begin_folder",
    "endpoint_model",
    "inpaint_folder",
    "inpaint_shards",
    "is_shard_set",
    "list_pairs",
    "run_offline",
    "run_on_endpoint",
]

__getattr__ = lazy_names(
    __name__,
    {
        "config": ("BatchInferenceConfig",),
        "endpoint": ("endpoint_model", "run_on_endpoint"),
        "pairs": ("Pair", "list_pairs"),
        "ray_data": ("run_offline",),
        "runner": ("FolderWork", "Outcome", "Summary", "begin_folder", "inpaint_folder"),
        "shards": ("inpaint_shards", "is_shard_set"),
    },
)
