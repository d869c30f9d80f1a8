"""Start the server from the process that starts Ray, and let Ray start workers by it."""

import atexit
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from infill.pipeline.forkserver import launcher
from infill.pipeline.progress import shows_everything
from infill.pipeline.temporary_folders import temporary_folder

SWITCH = "INFILL_FORK_WORKERS"
"""The environment variable that turns the server off by "0"."""
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
"""Files of machines with a GPU. Workers start as usual there: no GPU has been at hand to try it."""
WITHOUT_TORCH = (
    "numpy",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.fs",
    "pyarrow.parquet",
    "aiohttp",
    "cv2",
    "fsspec.implementations.local",
    "google.protobuf.internal.builder",
    "google.protobuf.json_format",
    "jsonschema",
    "pydantic.dataclasses",
    "requests",
    "rich.live",
    "tqdm.auto",
    "yaml",
)
"""What Ray, Ray Data and our modules import."""
WITH_TORCH = ("torch", "safetensors.torch", *WITHOUT_TORCH)
TRAINING = (*WITH_TORCH, "tensorboardX", "torch._dynamo")
"""The last takes a second; PyTorch imports it with the first optimizer."""

_running = ExitStack()


def start(preload: Sequence[str]) -> None:
    """Start a server for this process, which ends with it; without effect where none can run.

    Args:
        preload: names of the modules that it imports, besides those of ours that are imported in
            this process. What needs Ray is left out.
    """
    if not _is_wanted():
        return
    stop()
    folder = _running.enter_context(temporary_folder())
    own = [name for name in sys.modules if name.startswith("infill.")]
    path = str(folder / "socket")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with launcher.short(path) as short:
        listening.bind(short)
    listening.listen(1024)  # Launchers wait while the server imports.
    number = str(listening.fileno())
    server = subprocess.Popen(
        # -P: not with the current folder as the first place of modules.
        [sys.executable, "-P", "-m", f"{__package__}.server", number, *preload, *own],
        pass_fds=[listening.fileno()],
        # PyTorch's pool of threads would not survive a fork; workers set their own number.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=None if shows_everything() else subprocess.DEVNULL,
        stderr=None if shows_everything() else subprocess.DEVNULL,
        process_group=0,
    )
    listening.close()
    _running.callback(_end, server)
    os.environ[launcher.ADDRESS] = path


def stop() -> None:
    """End the server of this process, if there is one. Workers live on."""
    _running.close()
    os.environ.pop(launcher.ADDRESS, None)


atexit.register(stop)


@contextmanager
def using() -> Iterator[None]:
    """Let a Ray that the block starts fork its workers, if a server has been started."""
    from ray._private import ray_constants

    usual = ray_constants.SETUP_WORKER_FILENAME  # Joined to the folder of Ray's own program.
    if launcher.ADDRESS in os.environ:
        ray_constants.SETUP_WORKER_FILENAME = launcher.__file__
    try:
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = usual


def _is_wanted() -> bool:
    return (
        sys.platform == "linux"
        and os.environ.get(SWITCH) != "0"
        and not any(device.exists() for device in GPU_DEVICES)
    )


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the process; those of its jobs notice that their standard input has ended."""
    assert server.stdin is not None
    server.stdin.close()
    server.kill()
    server.wait()
