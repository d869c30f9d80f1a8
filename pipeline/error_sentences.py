"""The user's sentence behind an exception, through what Ray wraps around it on its way here."""

import errno
import re
from collections.abc import Iterator

from infill.pipeline.errors import UserError, printable

STALLED = ("ray.data.exceptions", "ExecutionTimeoutError")
"""Module and name of Ray Data's error about work that does not go on, which has no public name."""
NO_TOKEN = ("ray.exceptions", "AuthenticationError")
"""Module and name of Ray's error about a token that cannot be read."""
STUCK = ("ray.train.v2._internal.exceptions", "WorkerHealthCheckTimeoutError")
"""Module and name of Ray Train's error, which has no public name."""


def explain(error: BaseException) -> str | None:
    """Return the user's sentence behind an exception, or None if it is a defect of ours.

    Looks through what Ray wraps around an exception on its way from a worker to the driver.
    """
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return _last_paragraph(str(cause))
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" at {cause.filename}" if cause.filename else ""
            return (
                f"the disk is full{where}; free some space and run the same command again: "
                "finished parts are kept"
            )
        if isinstance(cause, OSError) and "AWS Error" in str(cause):
            return (
                f"the object store failed: {str(cause).splitlines()[0]}; check its address "
                "(AWS_ENDPOINT_URL), the credentials and the network, and run the same command "
                "again: finished parts are kept"
            )
        if isinstance(cause, IsADirectoryError) and cause.filename:
            return f"{printable(str(cause.filename))} is a folder; give a file"
        if isinstance(cause, FileExistsError | NotADirectoryError) and cause.filename:
            return (
                f"{printable(str(cause.filename))} cannot be a folder: there is a file, or a link "
                "that leads nowhere, in its path; choose another path"
            )
        if isinstance(cause, OSError) and cause.errno == errno.EROFS:
            return f"{cause.filename} lies on a filesystem that is read-only; choose another path"
        if isinstance(cause, PermissionError):
            return f"no permission to write or read {cause.filename}; choose another path"
    return next(filter(None, map(_lost_or_stuck, _causes(error))), None)


def _lost_or_stuck(error: BaseException) -> str | None:
    """Return a sentence for a process that is lost to Ray, does not answer it or has no token."""
    kind = type(error)
    if (kind.__module__, kind.__name__) == NO_TOKEN:
        reason = str(error).strip().partition(". ")[0]
        return (
            f"{reason}; set RAY_AUTH_TOKEN, or the file that RAY_AUTH_TOKEN_PATH names, to what "
            "`ray get-auth-token` prints on the cluster's head, or RAY_AUTH_MODE=disabled"
        )
    if (kind.__module__, kind.__name__) == STALLED:
        return (
            "no worker of this job has finished anything for too long: they wait for resources, or "
            "end before they begin, as where memory is short. Free memory, add nodes or end other "
            "jobs, and give the same command again: finished parts are kept"
        )
    if (kind.__module__, kind.__name__) != STUCK:
        return _lost_process(error)
    silence = re.search(r"hanging for ([\d.]+)", str(error))
    since = f" for {float(silence[1]):.0f} s" if silence else ""
    return (
        f"a worker of this training has not answered Ray{since}, once more than max_failures "
        "allows: look at its node, or raise max_failures. Give the same command again: it resumes "
        "from the newest checkpoint"
    )


def _lost_process(error: BaseException) -> str | None:
    """Return a sentence for a process that Ray has lost, as to a lack of memory."""
    lost = ["OutOfMemoryError", "ActorDiedError", "WorkerCrashedError", "NodeDiedError"]
    lost += ["LocalRayletDiedError", "ObjectLostError", "RpcError"]  # Ray's own processes.
    kinds = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    if not any(("ray.exceptions", name) in kinds for name in lost):
        return None
    if "creation task" in str(error):  # It has raised an error, which Ray keeps as text alone.
        return next(reversed(sentences_in(str(error))), None)
    if memory := ended_for_memory(str(error)):
        return memory
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if ("ray.exceptions", "LocalRayletDiedError") in kinds:
        line = "the raylet, Ray's own process on this node"
    return (
        f"Ray has lost a process of this job: {line.rstrip('.')}; most often its node ran out of "
        "memory or was taken away. Give the same command again: finished parts are kept"
    )


def sentences_in(text: str) -> list[str]:
    """Return the users' sentences in a traceback of which Ray has kept the text alone."""
    found = re.findall(r"^infill\.pipeline\.errors\.\w+: (.+)", text, re.MULTILINE)
    return [printable(sentence) for sentence in found]


def ended_for_memory(text: str) -> str:
    """Return the user's sentence for Ray's message that its monitor has ended a worker, else ""."""
    memory = memory_of_node(text)
    return memory and (
        f"Ray's memory monitor has ended a worker of this job: {memory}; give the job fewer "
        "workers a node, fewer processes that load data or smaller batches, or free memory "
        "there. Give the same command again: finished parts are kept"
    )


def memory_of_node(text: str) -> str:
    """Return how much memory a node used, from Ray's message about a worker that it has ended.

    Args:
        text: the message.

    Returns:
        "its node 10.0.0.2 used 22.9 of 23.5 GB", or "" if the message is about something else.
    """
    found = re.search(
        r"Memory on the node \(IP: ([^,)]+).*? was ([\d.]+)GB used / ([\d.]+)GB", text, re.DOTALL
    )
    if found:
        return f"its node {found[1]} used {float(found[2]):.1f} of {float(found[3]):.1f} GB"
    return "its node was short of memory" if "node running low on memory" in text else ""


def sentence_of(error: Exception) -> str:
    """Return the sentence behind an exception, for a task that returns it with its results.

    Ray Data would bring the exception itself to the driver without its cause and its sentence.

    Raises:
        Exception: the same one, if it is a defect of ours.
    """
    sentence = explain(error)
    if sentence is None:
        raise error
    return sentence


def _causes(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = [current.__cause__, getattr(current, "cause", None), current.__context__]
        inner += list(getattr(current, "worker_failures", {}).values())
        for name in ("health_check_failure", "controller_failure"):  # Of Ray Train's errors.
            inner.append(getattr(current, name, None))
        waiting += [e for e in inner if isinstance(e, BaseException)]


def _last_paragraph(text: str) -> str:
    """Keep the whole message of an exception to which Ray has prepended the remote traceback.

    Line breaks become blanks, and codes for terminals are left out.
    """
    if "Traceback (most recent call last)" in text or text.startswith("\x1b[36mray::"):
        parts = re.split(r"^(?:\w+\.)*\w*(?:Error|Exception): ", text, flags=re.MULTILINE)
        text = parts[-1]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return printable(" ".join(plain.split())) or "no message"
