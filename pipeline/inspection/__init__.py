"""Inspect a shard set: statistics, and a contact sheet of what a training sees."""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.inspection.config import InspectConfig
    from infill.pipeline.inspection.contact_sheet import (
        data_settings,
        describe,
        describe_masks,
        describe_sample,
        look,
        sheet,
    )

__all__ = [
    "InspectConfig",
    "data_settings",
    "describe",
    "describe_masks",
    "describe_sample",
    "look",
    "sheet",
]

__getattr__ = lazy_names(
    __name__,
    {
        "config": ("InspectConfig",),
        "contact_sheet": (
            "data_settings",
            "describe",
            "describe_masks",
            "describe_sample",
            "look",
            "sheet",
        ),
    },
)
