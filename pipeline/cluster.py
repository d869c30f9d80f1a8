"""Connect a job to Ray: the cluster it was submitted to, or a local one that it starts.

Ray is imported only when needed, so that ``--help`` and errors of settings are fast.
"""

import gc
import ipaddress
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

from infill.pipeline import forkserver
from infill.pipeline.errors import UserError
from infill.pipeline.head_process import ending_with_head, ending_without_head
from infill.pipeline.interruption import handled
from infill.pipeline.progress import Progress, shows_everything
from infill.pipeline.proxies import reach_this_machine_directly
from infill.pipeline.ray_messages import in_one_line
from infill.pipeline.temporary_folders import delete_kept, keep_until_end

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_TQDM_PATCH_PRINT": "0",  # Ray Data's print cannot be pickled, and hides Python's own.
    "RAY_task_oom_retries": "10",  # Ray's own number is without limit.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # A relative path means the same in every process of a job.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # A busy machine starts one in more than 5 s.
}
"""Variables that Ray reads when it is imported; a value that the user has set is kept."""

SILENT = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
"""Further ones, which reduce Ray's own logging; unset with ``--verbose``."""

FALSE_ALARM = b"has constructor arguments in the object store"
"""In a line of Ray's C++ part about each pool of Ray Data's actors, which always has them there."""

KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**28)}
"""Variables for the workers of a local Ray: the GNU C library keeps freed memory for the next image
instead of returning it to the system, which saves a tenth of the time of small images."""

DATA_THREADS_END_S = 20.0
"""Seconds for a thread of Ray Data to end once its work is over."""

OBJECT_STORE_BYTES = 2**30
"""Size of the object store: it holds small records and a few blocks of images, not the dataset."""


LONGEST_FOLDER = 40
"""Length of the path of Ray's temporary folder that leaves room for the names of its sockets, which
the kernel limits to 107 bytes."""
SHORT_FOLDER = "/tmp/infill-ray"
SHARED_MEMORY = "/dev/shm"

STARTS = 4
"""Attempts to start Ray, which gives up a start after a fixed half minute."""


BESIDE_DRIVER_BYTES = 10**8
"""Memory that an actor beside the driver reserves."""
OOM_SCORE = Path("/proc/self/oom_score_adj")


def beside_driver(kind: type) -> Any:
    """Start an actor without CPUs on the driver's own node, safe from failures of other nodes.

    It reserves its memory. If it dies, because memory runs out on this node, for example, it starts
    again without what it held, and calls to it wait meanwhile. Runs on the driver.
    """
    import ray

    def start(self: Any) -> None:
        spare_from_kernel()
        kind.__init__(self)  # type: ignore[misc]

    actor = ray.remote(
        num_cpus=0,
        memory=BESIDE_DRIVER_BYTES,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=on_this_node(),
    )(type(kind.__name__, (kind,), {"__init__": start}))
    return actor.remote()


def on_this_node() -> Any:
    """Return Ray's strategy that starts an actor on this process's node, or nowhere."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def cap_gpu_memory(share: float) -> None:
    """Cap this process's memory at its share of a GPU, so that it cannot starve its neighbours."""
    import torch

    if 0 < share < 1:
        torch.cuda.set_per_process_memory_fraction(share)


def spare_from_kernel() -> None:
    """Let the kernel end other processes before this one when memory runs out.

    Ray marks each of its workers as the first to be ended; a small process that many others wait
    for gets the score of an ordinary program again, where the system allows it.
    """
    with suppress(OSError):
        OOM_SCORE.write_text("0")


@contextmanager
def quiet_data() -> Iterator[None]:
    """Keep Ray Data's plans and tracebacks off the terminal; errors still come as exceptions.

    Runs on the driver.
    """
    if shows_everything():
        yield
        return
    import ray.data  # noqa: F401 - It sets its logger's level when it is imported.

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
    pipe to a process that passes the other lines on. A thread would lose the last words of a
    process that crashes.
    """
    sys.stderr.flush()
    before = os.dup(2)
    # In a session of its own: Ctrl-C ends the job, and its error is still to be passed on.
    command = [sys.executable, "-I", "-S", "-c", _PASS_ON, words.decode()]
    filtering = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=before, start_new_session=True
    )
    assert filtering.stdin is not None
    os.dup2(filtering.stdin.fileno(), 2)
    filtering.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        try:
            filtering.wait(timeout=1)
        except subprocess.TimeoutExpired:
            # A process that was started meanwhile holds the pipe: its lines are still passed on.
            _still_filtering.append(filtering)


_still_filtering: list[subprocess.Popen[bytes]] = []
_PASS_ON = """
import sys
for line in sys.stdin.buffer:
    if sys.argv[1].encode() not in line:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""


@contextmanager
def connect(
    *,
    dashboard: bool = False,
    num_cpus: int | None = None,
    environment: Mapping[str, str] | None = None,
    preload: Sequence[str] = forkserver.WITH_TORCH,
) -> Iterator[None]:
    """Run the block on Ray: the connected one, that of ``RAY_ADDRESS``, or a new local one.

    Runs on the driver. SIGTERM (of ``ray job stop``, Kubernetes and ``kill``) ends the block as
    Ctrl-C does. Inside ``ray job submit`` the address is set and the cluster is joined; set
    ``RAY_ADDRESS=auto`` to join one started by ``ray start`` on this machine. A Ray that was
    started or joined here is left at the end of the block; one that was connected before stays.

    Args:
        dashboard: whether a Ray started here has a dashboard, which Ray Tune needs to clean up
            after stopped trials.
        num_cpus: number of CPUs of a Ray started here; None uses all of this machine.
        environment: environment variables of a Ray started here, and from then on of this process.
        preload: modules that the workers of a Ray started here need; they are imported once.

    Raises:
        UserError: if nothing answers at ``RAY_ADDRESS``.
    """
    settings = RAY_SETTINGS | KEEP_MEMORY | ({} if shows_everything() else SILENT)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    reach_this_machine_directly()
    if not shows_everything():
        in_one_line()
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        with Progress(f"joining Ray at {address}") as progress:
            dashboard_url = _join(address)
            progress.ending = "joined"
    else:
        os.environ.update(environment or {})
        with Progress("starting Ray") as progress:
            dashboard_url = _start(dashboard, num_cpus, preload)
            progress.ending = "started"
    if dashboard_url:
        print(dashboard_line(dashboard_url), flush=True)
    import ray

    # Ray's own handler of SIGTERM would end the process at once.
    with handled(), ending_without_head(_head(address)) if address else nullcontext():
        try:
            with nullcontext() if address else ending_with_head():
                yield
        finally:
            _end_ray_data()
            ray.shutdown()
            forkserver.stop()


def _end_ray_data() -> None:
    """Wait for the threads of Ray Data, which it gives two seconds to end.

    One that asks Ray after its end ends the whole process at once, before the job's last words.
    """
    for thread in threading.enumerate():
        if type(thread).__name__ == "StreamingExecutor":
            thread.join(DATA_THREADS_END_S)


def dashboard_line(address: str) -> str:
    """Return where Ray's dashboard is and, where it asks for a token, what prints that."""
    asks = os.environ.get("RAY_AUTH_MODE") == "token"  # Ray sets it too, for one that it starts.
    token = "; `ray get-auth-token` prints its token" if asks else ""
    return f"Ray's dashboard: http://{address}{token}"


def _join(address: str) -> str | None:
    """Join the cluster of ``RAY_ADDRESS``, which Ray reads by itself; return its dashboard."""
    import ray

    instead = "or unset RAY_ADDRESS to run on this machine alone"
    try:
        _knock(address)
    except OSError as error:
        raise UserError(
            f"no Ray answers at RAY_ADDRESS={address}; start it, correct the address, {instead}"
        ) from error
    if is_this_machine(address):
        _use_token()
    try:
        with without_error_lines(b"InvalidAuthToken"):
            dashboard: str | None = ray.init(**_logging(), **_in_folder(address)).dashboard_url
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        mode = os.environ.get("RAY_AUTH_MODE") == "token"
        raise UserError(
            f"what listens at RAY_ADDRESS={address} does not answer as Ray does "
            f"{'to the token of this process' if mode else 'without a token'}; if it is a Ray, set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its "
            f"machine; otherwise correct the address, {instead}"
        ) from error
    if os.environ.get("RAY_AUTH_MODE") != "token" and not is_this_machine(address):
        print(
            f"warning: the Ray at {address} runs code of anyone who can reach it; start it with "
            "RAY_AUTH_MODE=token, as docs/security.md says",
            file=sys.stderr,
        )
    return dashboard


def _use_token() -> None:
    """Use this machine's token, if it has one, as ``RAY_ADDRESS=auto`` does.

    `ray start` asks for it from then on. ``RAY_AUTH_MODE`` decides if it is set.
    """
    from ray._private.authentication import authentication_token_setup as setup

    level = setup.logger.level
    setup.logger.setLevel(logging.ERROR)
    try:
        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    finally:
        setup.logger.setLevel(level)


def _in_folder(address: str) -> dict[str, Any]:
    """Return the option by which workers of a joined Ray begin in this process's folder.

    A relative path then means the same in every process of the job, as on a Ray that the job
    starts. A node without that folder keeps its own, and so does every node behind ``ray://``, as
    Ray's client sends no function with its start.
    """
    folder = os.getcwd()

    def enter() -> None:
        with suppress(OSError):
            os.chdir(folder)

    if address.startswith("ray://"):
        return {}
    return {"runtime_env": {"worker_process_setup_hook": enter}}


def _head(address: str) -> str:
    """Return host and port of the head of the joined Ray, or of the proxy of a ``ray://`` one."""
    import ray

    if address.startswith("ray://"):
        return address.removeprefix("ray://")
    head: str = ray.get_runtime_context().gcs_address
    return head


def is_this_machine(address: str) -> bool:
    """Return whether an address such as ``10.0.0.5:6379`` is this machine's loopback."""
    host = address.removeprefix("ray://").rpartition(":")[0].strip("[]")
    try:
        return host in ("", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # A host name, which may be any machine.


def _knock(address: str) -> None:
    """Fail within seconds if the port is closed; Ray itself would try for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _start(dashboard: bool, num_cpus: int | None, preload: Sequence[str]) -> str | None:
    """Start a local Ray for this process only; return its dashboard.

    The address is "local" because a bare ``ray.init()`` would join the Ray that anyone last started
    on this machine.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    delete_kept(_session_folder())
    return start_ray(
        preload=preload,
        address="local",
        num_cpus=num_cpus,
        include_dashboard=dashboard,
        object_store_memory=min(OBJECT_STORE_BYTES, memory // 8),
        **_folders(),
        **_logging(),
    )


def _folders() -> dict[str, Any]:
    """Return where a local Ray has its files, if its own choice would not do."""
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    chosen: dict[str, Any] = {}
    if len(os.path.join(usual, "ray")) > LONGEST_FOLDER:
        chosen["_temp_dir"] = f"{SHORT_FOLDER}-{os.getuid()}"
    if not os.path.isdir(SHARED_MEMORY):
        chosen["_plasma_directory"] = usual
    return chosen


def _session_folder() -> Path:
    """Return where a local Ray has a folder for each of its sessions."""
    usual = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")
    return Path(_folders().get("_temp_dir", usual))


def require_gpu(asked: bool) -> None:
    """Refuse to compute on a GPU of this machine if it has none. On the driver, before Ray starts.

    Args:
        asked: whether the job wants one.

    Raises:
        UserError: if there is none, unless the job joins a cluster, which may have some.
    """
    if not asked or os.environ.get("RAY_ADDRESS"):
        return
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return
    import torch

    if not torch.cuda.is_available():
        built = "was built without CUDA" if torch.version.cuda is None else "finds none"
        raise UserError(
            f"use_gpu asks for a GPU on this machine, and PyTorch {torch.__version__} {built}: "
            "compute on the CPU (--no-use-gpu), install PyTorch for CUDA (`make TORCH=cuda`), or "
            "set RAY_ADDRESS to a cluster with GPUs"
        )


def require_device(device: Any) -> None:
    """Refuse a device that PyTorch does not know, or that this process cannot use.

    Args:
        device: its name, such as "cpu" or "cuda:1", or PyTorch's own object.

    Raises:
        UserError: with the reason.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise UserError(
            f"device {str(device)!r} cannot be used here ({reason}); give cpu, or cuda or cuda:1 "
            "on a machine with GPUs and a PyTorch for CUDA (`make install TORCH=cuda`)"
        ) from error


def _logging() -> dict[str, Any]:
    """Return which logs of Ray and its workers are printed on the terminal."""
    if shows_everything():
        return {"log_to_driver": True, "logging_level": "INFO"}
    return {"log_to_driver": False, "logging_level": "ERROR"}


def start_ray(
    *, preload: Sequence[str] = forkserver.TRAINING, include_dashboard: bool = True, **options: Any
) -> str | None:
    """Start Ray, with retries for a busy machine: Ray allows half a minute per start.

    Args:
        preload: modules that workers need; they are imported once.
        include_dashboard: whether its dashboard runs as well.
        **options: other options of ``ray.init``.

    Returns:
        The address of its dashboard, such as "127.0.0.1:8265"; None or "" without one.

    Raises:
        UserError: if Ray does not start in several attempts.
    """
    forkserver.start(preload)  # It imports modules while Ray starts.
    import ray

    for _ in range(STARTS):
        try:
            few = nullcontext() if include_dashboard else _without_idle_processes()
            with forkserver.using(), _apart_from_signals(), few:
                context = ray.init(include_dashboard=include_dashboard, **options)
        except Exception as error:  # Ray raises no narrower type for this.
            forkserver.stop()  # Workers of a later attempt start as usual.
            if "timed out during startup" not in str(error):
                _refuse_start(error)
            ray.shutdown()
            with warnings.catch_warnings():  # The failed start leaves processes behind.
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
            failure = error
            continue
        keep_until_end(Path(context.address_info["session_dir"]))
        dashboard: str | None = context.dashboard_url
        return dashboard
    raise UserError(
        f"Ray did not start within {STARTS} attempts of half a minute each: the machine is too "
        "busy or out of memory; run the same command again when it has less to do"
    ) from failure


@contextmanager
def _without_idle_processes() -> Iterator[None]:
    """Let a Ray that the block starts leave out what does nothing on one machine.

    The autoscaler has no nodes to add, and takes a second to end; its state is for the dashboard.
    The API server without a dashboard only reports usage statistics. Both take 1.4 s of a core.
    """
    from ray._private.node import Node

    usual = Node.start_monitor, Node.start_api_server
    Node.start_monitor = lambda node: None
    Node.start_api_server = lambda node, **options: None
    try:
        yield
    finally:
        Node.start_monitor, Node.start_api_server = usual


@contextmanager
def _apart_from_signals() -> Iterator[None]:
    """Give each process of a Ray that the block starts a process group of its own.

    ``timeout`` and other launchers signal the whole group of a job, which could not save without
    its Ray. Ray's processes end when this one does, also after a signal that cannot be handled.
    """
    from ray._private import services

    usual = services.ConsolePopen

    class Apart(usual):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"process_group": 0, **kwargs})

    services.ConsolePopen = Apart if os.name == "posix" else usual
    try:
        yield
    finally:
        services.ConsolePopen = usual


def _refuse_start(error: Exception) -> NoReturn:
    """Raise what the system refused Ray as a sentence, and anything else as it is."""
    if not isinstance(error, OSError | RuntimeError):
        raise error
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise UserError(f"Ray cannot start on this machine: {first}") from error
