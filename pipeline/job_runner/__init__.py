"""Runs the jobs of the service by batch inference, in a deployment of its own.

``runner`` takes jobs from the database and sends their webhooks; ``deployment`` adds it to the
service's application on Ray Serve.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.job_runner.runner import JobRunner, RunnerConfig

__all__ = ["JobRunner", "RunnerConfig"]

__getattr__ = lazy_names(__name__, {"runner": ("JobRunner", "RunnerConfig")})
