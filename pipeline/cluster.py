"""Connect a job to Ray: the cluster it was submitted to, or a local one that it starts.

Ray is imported when it is needed, so that ``--help`` and refused settings cost nothing.
"""

import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from infill.pipeline.errors import UserError
from infill.pipeline.progress import Progress, shows_everything

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # A busy machine starts one in more than 5 s.
}
"""Ray reads these while it is imported; a value that the user has set is kept."""

SILENT = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
"""The same, unless Ray is to log what it would by itself."""

FALSE_ALARM = b"has constructor arguments in the object store"
"""In a line of Ray's C++ part about each pool of Ray Data's actors, which always has them there."""

KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**28)}
"""For the workers of a Ray started here: has the GNU C library keep what one picture took for the
next one, in place of fetching it anew from the system; a tenth of the time of small pictures."""

OBJECT_STORE_BYTES = 2**30
"""The store holds small records and a few blocks of decoded pictures, never a data set."""


STARTS = 4
"""Attempts to start Ray, which gives up a start after a fixed half minute."""


def beside_driver(kind: type) -> Any:
    """Start an actor without CPUs on the driver's own node, so that no other node takes it along.

    Runs on the driver.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(kind).remote()


@contextmanager
def quiet_data() -> Iterator[None]:
    """Keep Ray Data's plans and tracebacks off the terminal; errors still come as exceptions.

    Runs on the driver.
    """
    if shows_everything():
        yield
        return
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with without_error_lines(FALSE_ALARM):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def without_error_lines(words: bytes) -> Iterator[None]:
    """Keep lines with certain words off this process's standard error while the block runs.

    C++ writes there without Python's knowledge, so the file descriptor itself is replaced, by a
    pipe whose other lines a thread passes on.
    """
    sys.stderr.flush()
    before = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)

    def pass_on() -> None:
        with open(reader, "rb") as lines, open(before, "wb", buffering=0) as terminal:
            for line in lines:
                if words not in line:
                    terminal.write(line)

    thread = threading.Thread(target=pass_on, name="stderr", daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        # A process that was started meanwhile may hold the pipe: its lines are passed on still.
        thread.join(timeout=1)


@contextmanager
def connect(
    *,
    dashboard: bool = False,
    num_cpus: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run the block on a Ray: the one at hand, that of ``RAY_ADDRESS``, or one of its own.

    Runs on the driver. What ``ray job stop``, Kubernetes and ``kill`` send (SIGTERM) ends the block
    as Ctrl-C does. Inside ``ray job submit`` the address is set and the cluster is joined; set
    ``RAY_ADDRESS=auto`` to join one started by ``ray start`` on this machine. Whatever was
    started or joined here is left at the end of the block; a Ray that was at hand stays.

    Args:
        dashboard: of a Ray started here; Ray Tune needs it to clean up after stopped trials.
        num_cpus: of a Ray started here; all that this machine has if None.
        environment: of a Ray started here, and from then on of this process.

    Raises:
        UserError: if nothing answers at ``RAY_ADDRESS``.
    """
    settings = QUIET | KEEP_MEMORY | ({} if shows_everything() else SILENT)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    if address := os.environ.get("RAY_ADDRESS"):
        with Progress(f"joining Ray at {address}") as progress:
            dashboard_url = _join(address)
            progress.ending = "joined"
    else:
        os.environ.update(environment or {})
        with Progress("starting Ray") as progress:
            dashboard_url = _start(dashboard, num_cpus)
            progress.ending = "started"
    if dashboard_url:
        print(dashboard_line(dashboard_url), flush=True)
    import ray

    before = _interrupt_when_terminated()
    try:
        yield
    finally:
        ray.shutdown()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _interrupt_when_terminated() -> Any:
    """Answer SIGTERM with a KeyboardInterrupt; what Ray sets for it would end the process at once.

    Returns:
        What answered before, None where nothing was changed: outside the main thread.
    """

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, interrupt) or signal.SIG_DFL


def dashboard_line(address: str) -> str:
    """Return where Ray's dashboard is and, where it asks for a token, what prints that."""
    asks = os.environ.get("RAY_AUTH_MODE") == "token"  # Ray sets it too, for one that it starts.
    token = "; `ray get-auth-token` prints its token" if asks else ""
    return f"Ray's dashboard: http://{address}{token}"


def _join(address: str) -> str | None:
    """Join the cluster of ``RAY_ADDRESS``, which Ray reads by itself; return its dashboard."""
    import ray

    try:
        _knock(address)
        dashboard: str | None = ray.init(**_logging()).dashboard_url
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        raise UserError(
            f"no Ray answers at RAY_ADDRESS={address}; start it, correct the address, "
            "or unset RAY_ADDRESS to run on this machine alone"
        ) from error
    if os.environ.get("RAY_AUTH_MODE") != "token" and not is_this_machine(address):
        print(
            f"warning: the Ray at {address} runs code for whoever reaches it; start it with "
            "RAY_AUTH_MODE=token, as docs/security.md says",
            file=sys.stderr,
        )
    return dashboard


def is_this_machine(address: str) -> bool:
    """Return whether an address such as ``10.0.0.5:6379`` leads to this machine alone."""
    host = address.removeprefix("ray://").rpartition(":")[0].strip("[]")
    try:
        return host in ("", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # A name, which may be anyone's.


def _knock(address: str) -> None:
    """Fail within seconds where nobody listens; Ray itself would try for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _start(dashboard: bool, num_cpus: int | None) -> str | None:
    """Start a Ray that only this process uses; return its dashboard.

    Named "local" because a bare ``ray.init()`` would join whatever Ray was last started on this
    machine, by whomever.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return start_ray(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=dashboard,
        object_store_memory=min(OBJECT_STORE_BYTES, memory // 8),
        **_logging(),
    )


def _logging() -> dict[str, Any]:
    """Return what of Ray's and the workers' own log comes to the terminal."""
    if shows_everything():
        return {"log_to_driver": True, "logging_level": "INFO"}
    return {"log_to_driver": False, "logging_level": "ERROR"}


def start_ray(**options: Any) -> str | None:
    """Start Ray, again if a busy machine does not manage it in the half minute that Ray allows.

    Args:
        **options: of ``ray.init``.

    Returns:
        The address of its dashboard, such as "127.0.0.1:8265"; None or "" without one.

    Raises:
        UserError: if Ray does not start in several attempts.
    """
    import ray

    for _ in range(STARTS):
        try:
            dashboard: str | None = ray.init(**options).dashboard_url
            return dashboard
        except Exception as error:  # Ray raises no narrower type for this.
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            with warnings.catch_warnings():  # Of the processes that the failed start has left.
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
            failure = error
    raise UserError(
        f"Ray did not start within {STARTS} attempts of half a minute each: the machine is too "
        "busy or out of memory; run the same command again when it has less to do"
    ) from failure
