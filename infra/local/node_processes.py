"""The processes of the cluster on one machine: ports, environments, marks, and hidden folders."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"
MARK = "INFILL_CLUSTER"
"""Variable with the cluster's folder, in the environment of each of its processes."""


def free_ports(count: int) -> list[int]:
    """Return unused ports."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind((HOST, 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def hiding(folders: Sequence[Path]) -> list[str]:
    """Return the words before a command that hide folders from it; empty if not permitted."""
    if shutil.which("unshare") is None:
        return []
    for words in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        probe = [*words, "mount", "-t", "tmpfs", "none", str(folders[0])]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            mount = "mount -t tmpfs -o ro none"
            hide = [f"{mount} {shlex.quote(str(folder))}" for folder in folders]
            return [*words, "sh", "-c", " && ".join([*hide, 'exec "$@"']), "node"]
    return []


def marked_processes() -> Iterator[tuple[int, str]]:
    """Yield every process that is part of a cluster, and that cluster's folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        folder = environment_of(int(entry.name)).get(MARK)
        if folder:
            yield int(entry.name), folder


def inherited_environment() -> dict[str, str]:
    """Return the caller's environment without variables of another Ray.

    A Ray that serves without a proxy, as that of ``jobs/serve.py``, has its port and limits there.
    """
    foreign = (
        "RAY_ADDRESS",
        "RAY_SERVE_DIRECT_INGRESS_",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
        "RAY_SERVE_PORT_QUARANTINE_S",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def environment_of(pid: int) -> dict[str, str]:
    """Return a process's environment; empty once it has ended."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition("=") for item in raw.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs}


def empty_folder(folder: Path) -> None:
    """Delete everything in a folder, as a new machine's disk has it."""
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink()


def kill_process(pid: int) -> None:
    """Send SIGKILL to a process, unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
