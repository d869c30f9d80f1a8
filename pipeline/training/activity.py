"""What a worker does at the moment, for its heartbeat."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class Activity:
    """The current step and activity of a worker, for its heartbeat."""

    step: int = 0
    doing: str = "starting"
    stop: bool = False
    """Whether the driver asks the workers to save and stop."""
