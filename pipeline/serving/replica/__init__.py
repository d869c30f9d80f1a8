"""The model side of the service: the Ray Serve deployment, its replicas, batching and models."""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.serving.replica.batcher import Batcher
    from infill.pipeline.serving.replica.deployment import (
        deploy_yaml,
        resolve_model,
        resolve_models,
        start,
        stop,
        watch,
    )
    from infill.pipeline.serving.replica.model_cache import ModelCache
    from infill.pipeline.serving.replica.replica import Replica, ServedModel

__all__ = [
    "Batcher",
    "ModelCache",
    "Replica",
    "ServedModel",
    "deploy_yaml",
    "resolve_model",
    "resolve_models",
    "start",
    "stop",
    "watch",
]

__getattr__ = lazy_names(
    __name__,
    {
        "batcher": ("Batcher",),
        "deployment": ("deploy_yaml", "resolve_model", "resolve_models", "start", "stop", "watch"),
        "model_cache": ("ModelCache",),
        "replica": ("Replica", "ServedModel"),
    },
)
