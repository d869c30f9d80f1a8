"""Jobs of many images, as the HTTP side sees them: settings, database, uploads, webhooks.

``infill.pipeline.job_runner`` does the work, by batch inference.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.serving.jobs.config import JobsConfig
    from infill.pipeline.serving.jobs.store import Job, JobStore

__all__ = ["Job", "JobStore", "JobsConfig"]

__getattr__ = lazy_names(
    __name__,
    {"config": ("JobsConfig",), "store": ("Job", "JobStore")},
)
