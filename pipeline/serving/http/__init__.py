"""The HTTP side of the service: routes, middleware, API keys, schemas and responses."""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.serving.http.app import create_app
    from infill.pipeline.serving.http.auth import ApiKey, ApiKeyAuth, add_key, new_key, read_keys
    from infill.pipeline.serving.http.inpaint_service import (
        HttpConfig,
        InpaintResult,
        InpaintService,
    )
    from infill.pipeline.serving.http.schemas import InpaintRequest, RequestFields
    from infill.pipeline.serving.http.served_models import Backend

__all__ = [
    "ApiKey",
    "ApiKeyAuth",
    "Backend",
    "HttpConfig",
    "InpaintRequest",
    "InpaintResult",
    "InpaintService",
    "RequestFields",
    "add_key",
    "create_app",
    "new_key",
    "read_keys",
]

__getattr__ = lazy_names(
    __name__,
    {
        "app": ("create_app",),
        "auth": ("ApiKey", "ApiKeyAuth", "add_key", "new_key", "read_keys"),
        "inpaint_service": ("HttpConfig", "InpaintResult", "InpaintService"),
        "schemas": ("InpaintRequest", "RequestFields"),
        "served_models": ("Backend",),
    },
)
