"""Heartbeats of the workers, and the diagnosis of silent or stalled ones.

A collective operation waits for every worker, so one that is stuck looks, to all the others, like
a slow network. Each tells every few seconds what it is doing; silence, or everybody standing at
one step, is logged with the worker's name long before the collective's own timeout ends the group.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from infill.pipeline.cluster import beside_driver
from infill.pipeline.tracking import Record, Report
from infill.pipeline.training.distributed import Activity

BEAT_EVERY_S = 2.0
SILENT_S = 20.0
"""Without a beat, after which a worker is named."""
ROOMLESS_S = 10.0
"""Without room for the workers, after which that is logged."""
STALLED_S = 120.0
"""Without a step anywhere, after which every worker's position is logged."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """A worker's last word."""

    step: int
    doing: str
    heard_s: float
    """On the actor's clock."""
    since_s: float
    """When it came to that step."""


class HeartbeatMonitor:
    """Runs as a Ray actor: the last word of each worker, and why the run was given up."""

    def __init__(self) -> None:
        self.beats: dict[int, Heartbeat] = {}
        self.reason: Exception | None = None

    def begin(self) -> None:
        """Forget the workers of an earlier group."""
        self.beats.clear()

    def leave(self, rank: int) -> None:
        """Forget a worker that has done its share."""
        self.beats.pop(rank, None)

    def beat(self, rank: int, step: int, doing: str) -> None:
        """Take a worker's word."""
        now = time.monotonic()
        last = self.beats.get(rank)
        since = last.since_s if last and last.step == step else now
        self.beats[rank] = Heartbeat(step=step, doing=doing, heard_s=now, since_s=since)

    def give_up(self, reason: Exception) -> None:
        """Remember that starting again would not help."""
        self.reason = self.reason or reason

    def given_up(self) -> Exception | None:
        """Return why the run was given up, or None."""
        return self.reason

    def heard(self) -> tuple[dict[int, Heartbeat], float]:
        """Return everybody's last word, and the time by the same clock."""
        return dict(self.beats), time.monotonic()


@contextmanager
def sending_heartbeats(watch: Any, rank: int, activity: Activity) -> Iterator[None]:
    """Tell the watch what this worker does, every few seconds, until the block ends."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_EVERY_S):
            watch.beat.remote(rank, activity.step, activity.doing)

    watch.beat.remote(rank, activity.step, activity.doing)
    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        watch.leave.remote(rank)


@contextmanager
def monitored(report: Report, room_wanted: Callable[[], str]) -> Iterator[Any]:
    """Yield a watch for workers; on the driver, name whoever is silent or stuck.

    Args:
        report: takes what there is to say.
        room_wanted: says what the workers wait for, "" once they have room.
    """
    import ray

    watch = beside_driver(HeartbeatMonitor)
    over = threading.Event()

    def look() -> None:
        logged: set[str] = set()
        roomless_since = float("inf")
        while not over.wait(BEAT_EVERY_S):
            beats, now = ray.get(watch.heard.remote())
            sentences = dict(diagnose(beats, now))
            wanted = room_wanted()
            roomless_since = min(roomless_since, now) if wanted else float("inf")
            if now - roomless_since > ROOMLESS_S:
                sentences["room"] = wanted
            for who, sentence in sentences.items():
                if who not in logged:
                    report(Record(kind="note", step=0, text=sentence))
            logged = set(sentences)

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        ray.kill(watch)


def diagnose(beats: dict[int, Heartbeat], now: float) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, each with a name by which it is logged only once."""
    silent = {rank for rank, beat in beats.items() if now - beat.heard_s > SILENT_S}
    for rank in sorted(silent):
        beat = beats[rank]
        yield (
            f"silent {rank}",
            f"worker {rank} has been silent for {now - beat.heard_s:.0f} s, since it was "
            f"{beat.doing} at step {beat.step}; the others wait for it",
        )
    if beats and not silent and all(now - beat.since_s > STALLED_S for beat in beats.values()):
        positions = [
            f"worker {rank} {beats[rank].doing} at step {beats[rank].step}" for rank in beats
        ]
        yield "stalled", f"no step for {STALLED_S:.0f} s: {', '.join(sorted(positions))}"
