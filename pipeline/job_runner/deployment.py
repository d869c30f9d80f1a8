"""The service's application on Ray Serve, with a deployment that runs its jobs."""

import threading
from typing import Any

from infill.pipeline.config import from_dict
from infill.pipeline.job_runner.runner import JobRunner, RunnerConfig
from infill.pipeline.serving.replica.ingress import application_with


def application(args: dict[str, Any]) -> Any:
    """Build the Serve application. Runs in a task of Serve's, by its import path."""
    from ray import serve

    runner = serve.deployment(name="jobs")(JobsDeployment)
    return application_with(args, runner.bind(from_dict(RunnerConfig, args["jobs"])))


class JobsDeployment:
    """Runs jobs in a thread of a replica, which Serve replaces if it dies."""

    def __init__(self, config: RunnerConfig) -> None:
        self._runner = JobRunner(config)
        self._thread = threading.Thread(target=self._runner.serve, daemon=True)
        self._thread.start()

    def check_health(self) -> None:
        """Raise if the thread has ended; Serve then replaces this replica."""
        if not self._thread.is_alive():
            raise RuntimeError("the runner of jobs has ended")

    def __del__(self) -> None:
        """End the runner; Serve calls this when it stops the replica."""
        self._runner.stop()
