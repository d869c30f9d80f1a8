"""Visualize the intermediate results of a checkpoint on one image."""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.visualize.config import VisualizeConfig
    from infill.pipeline.visualize.render import visualize

__all__ = ["VisualizeConfig", "visualize"]

__getattr__ = lazy_names(
    __name__,
    {"config": ("VisualizeConfig",), "render": ("visualize",)},
)
