"""Heartbeats of the workers, and the diagnosis of silent or stalled ones.

A collective operation waits for every worker, so to the others a stuck worker looks like a slow
network. Each worker sends a heartbeat with its activity every few seconds; a silent worker, or a
step that does not end, is logged with the worker's name long before the collective's own timeout
ends the group.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from infill.pipeline.background import beside
from infill.pipeline.cluster import beside_driver
from infill.pipeline.tracking import Record, Report
from infill.pipeline.training.activity import Activity

HEARTBEAT_EVERY_S = 2.0
SILENT_S = 20.0
"""Seconds without a heartbeat after which a worker is logged as silent."""
NO_RESOURCES_S = 10.0
"""Seconds without resources for the workers after which that is logged."""
STALLED_S = 120.0
"""Seconds without a step of any worker after which every worker's position is logged."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The last heartbeat of a worker."""

    step: int
    doing: str
    heard_s: float
    """Time of its arrival, by the actor's clock."""
    since_s: float
    """Time at which the worker reached that step, by the actor's clock."""


class HeartbeatMonitor:
    """A Ray actor that holds each worker's last heartbeat, and the error that ended the run."""

    def __init__(self) -> None:
        self.heartbeats: dict[int, Heartbeat] = {}
        self.reason: Exception | None = None
        self.reserved: Any = None
        self.stopping = False

    def reserve(self, group: Any) -> None:
        """Store the placement group of workers that will start; drop earlier ones' heartbeats."""
        self.heartbeats.clear()
        self.reserved = group

    def reservation(self) -> Any:
        """Return the placement group of the newest workers, or None."""
        return self.reserved

    def leave(self, rank: int) -> None:
        """Drop the heartbeat of a worker that has finished."""
        self.heartbeats.pop(rank, None)

    def record(self, rank: int, step: int, doing: str) -> bool:
        """Store a worker's heartbeat; return whether it has to save and stop."""
        now = time.monotonic()
        last = self.heartbeats.get(rank)
        since = last.since_s if last and last.step == step else now
        self.heartbeats[rank] = Heartbeat(step=step, doing=doing, heard_s=now, since_s=since)
        return self.stopping

    def stop(self) -> bool:
        """Ask every worker to save and stop; return whether any of them is training."""
        self.stopping = True
        now = time.monotonic()
        return any(now - heartbeat.heard_s < SILENT_S for heartbeat in self.heartbeats.values())

    def ends(self) -> bool:
        """Return whether new workers have nothing to do: the run has failed, or has to stop."""
        return self.stopping or self.reason is not None

    def give_up(self, reason: Exception) -> None:
        """Store an error that a restart would not solve."""
        self.reason = self.reason or reason

    def given_up(self) -> Exception | None:
        """Return the error that ended the run, or None."""
        return self.reason

    def heard(self) -> tuple[dict[int, Heartbeat], float]:
        """Return the last heartbeat of each worker, and the time by the same clock."""
        return dict(self.heartbeats), time.monotonic()


@contextmanager
def sending_heartbeats(monitor: Any, rank: int, activity: Activity) -> Iterator[None]:
    """Send this worker's heartbeat every few seconds, until the block ends.

    The answer says whether the worker has to save and stop.
    """
    import ray

    def send() -> None:
        answer = monitor.record.remote(rank, activity.step, activity.doing)
        with suppress(ray.exceptions.RayError):  # The monitor ends with the driver.
            activity.stop = ray.get(answer)

    def send_regularly(over: threading.Event) -> None:
        while not over.wait(HEARTBEAT_EVERY_S):
            send()

    send()  # Known before the first step, so that a worker that gets stuck there is named.
    try:
        with beside(send_regularly, "heartbeat"):
            yield
    finally:
        monitor.leave.remote(rank)


@contextmanager
def monitored(report: Report, missing_resources: Callable[[], str]) -> Iterator[Any]:
    """Yield a monitor for workers; on the driver, report silent or stuck ones.

    Args:
        report: takes the sentences to log.
        missing_resources: returns what the workers wait for; "" if they have all.
    """
    import ray

    monitor = beside_driver(HeartbeatMonitor)

    def look(over: threading.Event) -> None:
        logged: set[str] = set()
        waiting_since = float("inf")
        while not over.wait(HEARTBEAT_EVERY_S):
            heartbeats, now = ray.get(monitor.heard.remote())
            sentences = dict(diagnose(heartbeats, now))
            wanted = missing_resources()
            waiting_since = min(waiting_since, now) if wanted else float("inf")
            if now - waiting_since > NO_RESOURCES_S:
                sentences["resources"] = wanted
            for name, sentence in sentences.items():
                if name not in logged:
                    report(Record(kind="note", step=0, text=sentence))
            logged = set(sentences)

    try:
        with beside(look, "heartbeat monitor"):
            yield monitor
    finally:
        ray.kill(monitor)


def diagnose(heartbeats: dict[int, Heartbeat], now: float) -> Iterator[tuple[str, str]]:
    """Yield each problem with a name, by which it is logged only once."""
    silent = {rank for rank, heartbeat in heartbeats.items() if now - heartbeat.heard_s > SILENT_S}
    for rank in sorted(silent):
        heartbeat = heartbeats[rank]
        yield (
            f"silent {rank} since {heartbeat.heard_s}",  # Another silence is another sentence.
            f"worker {rank} has been silent for {now - heartbeat.heard_s:.0f} s, since it was "
            f"{heartbeat.doing} at step {heartbeat.step}; the others wait for it",
        )
    if (
        heartbeats
        and not silent
        and all(now - heartbeat.since_s > STALLED_S for heartbeat in heartbeats.values())
    ):
        positions = [
            f"worker {rank} {heartbeats[rank].doing} at step {heartbeats[rank].step}"
            for rank in heartbeats
        ]
        yield "stalled", f"no step for {STALLED_S:.0f} s: {', '.join(sorted(positions))}"
