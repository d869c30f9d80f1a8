"""The model side of the service: the Ray Serve deployment, its replicas, batching and models.

``infill.pipeline.serving`` offers what starts and stops the service.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.serving.replica.batcher import Batcher
    from infill.pipeline.serving.replica.deployment import resolve_model
    from infill.pipeline.serving.replica.model_cache import ModelCache
    from infill.pipeline.serving.replica.replica import Replica, ServedModel

__all__ = [
    "Batcher",
    "ModelCache",
    "Replica",
    "ServedModel",
    "resolve_model",
]

__getattr__ = lazy_names(
    __name__,
    {
        "batcher": ("Batcher",),
        "deployment": ("resolve_model",),
        "model_cache": ("ModelCache",),
        "replica": ("Replica", "ServedModel"),
    },
)
