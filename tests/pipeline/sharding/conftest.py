"""A driver that is killed at a certain moment of its work."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from infill.pipeline.config import to_json
from infill.pipeline.sharding import ShardConfig

PROGRAM = """
import os, signal, sys
from infill.pipeline.config import from_json
from infill.pipeline.sharding import ShardConfig, runner

settings, function, number = sys.argv[1:]
original, calls = getattr(runner, function), []

def counted(*arguments):
    calls.append(function)
    if len(calls) == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

setattr(runner, function, counted)
runner.make_shards(from_json(ShardConfig, settings))
"""


@pytest.fixture
def address(ray_local: None) -> str:
    """The tests' own Ray, for drivers in other processes to join."""
    import ray

    found: str = ray.get_runtime_context().gcs_address
    return found


@pytest.fixture(scope="session")
def kill_before() -> Callable[..., None]:
    """Return a function that runs a driver, which is killed at the n-th call of a function."""

    def run(config: ShardConfig, function: str, number: int, **environment: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, to_json(config), function, str(number)],
            capture_output=True,
            text=True,
            timeout=400,
            env={**os.environ, **environment},
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr

    return run
