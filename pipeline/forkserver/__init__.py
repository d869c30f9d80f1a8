"""Start the workers of a local Ray by forking a process that has imported what they need.

A worker of Ray is a new Python process. It imports Ray twice and, in most jobs, PyTorch: three
seconds of a core before it does anything. :func:`start` runs a process that imports them once. Ray
starts its workers by the program ``launcher.py``, which asks that process to fork itself.
"""

from infill.pipeline.forkserver.driver import (
    TRAINING,
    WITH_TORCH,
    WITHOUT_TORCH,
    start,
    stop,
    using,
)

__all__ = ["TRAINING", "WITHOUT_TORCH", "WITH_TORCH", "start", "stop", "using"]
