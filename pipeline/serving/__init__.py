"""The endpoint: a request with an image and a mask in, the composite out.

A request passes from top to bottom, and its response back:

    http/door.py             connections: size and time of heads, idle time, number
    http/middleware.py       API keys, admission, body size, deadline, one shape for all errors
    http/page_routes.py      the page for a browser; its modules are in http/page/
    http/app.py              the routes; batch_requests.py many pairs; openai_api.py,
                             iopaint_api.py and v2_api.py other APIs
    http/schemas.py          what callers send; responses.py what they receive; openapi.py and
                             docs_page.py describe both
    http/inpaint_service.py  two files to one: decode, tile, inpaint, composite, encode
    http/jobs_api.py         jobs of many images; jobs/ keeps them, job_runner inpaints them
    http/decoders.py         processes that decode large images, and are killed at the deadline
    replica/ingress.py       the application on Ray Serve, and its calls to the replicas
    replica/listening.py     the port that ingresses without a proxy share, after kills too
    replica/batcher.py       tiles of one size share a forward pass
    replica/replica.py       the models of one replica, replaced without a pause; model_cache.py
                             keeps them in an LRU cache
    replica/deployment.py    start, refresh and stop all of it on Ray Serve

``errors`` and ``limits`` belong to both sides. ``node_counts`` has what the ingresses of a machine
count together. ``client`` is the Python client of the endpoint,
and ``jobs_client`` that of its jobs; ``service_client`` is what they share.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.serving.client import AsyncInpaintClient, InpaintClient, Inpainted
    from infill.pipeline.serving.config import ReplicaConfig, ServeConfig
    from infill.pipeline.serving.errors import RequestError
    from infill.pipeline.serving.jobs.config import JobsConfig
    from infill.pipeline.serving.jobs_client import JobResult, JobsClient, JobState
    from infill.pipeline.serving.limits import LimitsConfig
    from infill.pipeline.serving.replica.deployment import (
        deploy_yaml,
        resolve_models,
        start,
        stop,
        watch,
    )
    from infill.pipeline.serving.service_client import ClientConfig, ServiceError

__all__ = [
    "AsyncInpaintClient",
    "ClientConfig",
    "InpaintClient",
    "Inpainted",
    "JobResult",
    "JobState",
    "JobsClient",
    "JobsConfig",
    "LimitsConfig",
    "ReplicaConfig",
    "RequestError",
    "ServeConfig",
    "ServiceError",
    "deploy_yaml",
    "resolve_models",
    "start",
    "stop",
    "watch",
]

__getattr__ = lazy_names(
    __name__,
    {
        "client": ("AsyncInpaintClient", "InpaintClient", "Inpainted"),
        "config": ("ReplicaConfig", "ServeConfig"),
        "errors": ("RequestError",),
        "jobs.config": ("JobsConfig",),
        "jobs_client": ("JobResult", "JobState", "JobsClient"),
        "limits": ("LimitsConfig",),
        "replica.deployment": ("deploy_yaml", "resolve_models", "start", "stop", "watch"),
        "service_client": ("ClientConfig", "ServiceError"),
    },
)
