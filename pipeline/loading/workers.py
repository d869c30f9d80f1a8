"""Decoding processes that write batches into shared memory.

With the GIL, two threads decode at 90 % of twice one thread's rate, and the training waits for the
lock as well. The processes are spawned, not forked: a worker has threads of Ray and PyTorch, whose
locks a fork would copy in whatever state they are.
"""

import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe

import numpy as np
import pyarrow as pa

from infill.pipeline.cluster import KEEP_MEMORY
from infill.pipeline.loading.config import BatchConfig
from infill.pipeline.loading.dataset import InpaintingDataset
from infill.pipeline.loading.prefetch import BufferLayout, DecodeTask, Names, SharedBuffers
from infill.pipeline.manifest import Manifest

MOST_RESTARTS = 3
"""Maximum number of restarts of one process before its death is an error."""
STOP_TIMEOUT_S = 10
PROGRAM = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from infill.pipeline.loading.decode_worker import main
main(*map(int, sys.argv[2:]))"""
"""Program of a process: it finds modules where its worker does, as a cluster's job has a folder of
its own."""


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """The first message to a decoding process."""

    config: BatchConfig
    manifest: Manifest
    """The manifest without its samples, which are in a file of their own."""
    layout: BufferLayout


class ProcessPool:
    """Processes of ``infill.pipeline.loading.decode_worker``, which fill shared memory."""

    def __init__(self, config: BatchConfig, manifest: Manifest, layout: BufferLayout) -> None:
        InpaintingDataset(config, manifest)  # errors of the set are reported before anything starts
        size = layout.size()
        self.files = [nameless_file(size), samples_file(manifest)]
        memory = np.frombuffer(mmap.mmap(self.files[0], size), np.uint8)
        self.frames = SharedBuffers(memory, layout)
        bare = replace(manifest, samples=manifest.samples.slice(0, 0))
        setup = WorkerSetup(config=config, manifest=bare, layout=layout)
        self.decoders = [
            DecodeWorker(lambda: self._start(setup)) for _ in range(config.num_decode_workers)
        ]

    def _start(self, setup: WorkerSetup) -> "tuple[subprocess.Popen[bytes], Connection]":
        ours, theirs = Pipe()
        numbers = [theirs.fileno(), *self.files]
        words = [sys.executable, "-c", PROGRAM, json.dumps(sys.path), *map(str, numbers)]
        process = subprocess.Popen(words, pass_fds=numbers, env={**KEEP_MEMORY, **os.environ})
        theirs.close()
        ours.send(setup)
        return process, ours

    def begin(self, task: DecodeTask) -> "PendingResult":
        """Send a task to the process with the fewest samples to make."""
        if task.first == 0:  # once for the tasks of a batch, which begin together
            for decoder in self.decoders:
                decoder.receive_ready()
        return min(self.decoders, key=DecodeWorker.samples_to_come).send(task)

    def close(self) -> None:
        """End the processes, and free their memory once no tensor uses it."""
        for decoder in self.decoders:
            decoder.close()
        for file in self.files:
            os.close(file)
        self.files = []


class DecodeWorker:
    """One process, restarted if it dies, with the tasks it had not finished."""

    def __init__(self, start: "Callable[[], tuple[subprocess.Popen[bytes], Connection]]") -> None:
        self.start, self.restarts = start, 0
        self.process, self.pipe = start()
        self.unanswered: deque[PendingResult] = deque()

    def samples_to_come(self) -> int:
        """Return how many samples the process still has to make."""
        return sum(len(awaited.task.visits) for awaited in self.unanswered)

    def send(self, task: DecodeTask) -> "PendingResult":
        """Send a task; if the process is dead, :meth:`receive` restarts it."""
        awaited = PendingResult(self, task)
        self.unanswered.append(awaited)
        with suppress(OSError):
            self.pipe.send(task)
        return awaited

    def receive_ready(self) -> None:
        """Take the results that have arrived."""
        while self.unanswered and self.pipe.poll():
            self.receive()

    def receive(self) -> None:
        """Wait for the result of the oldest task: results come in order.

        Raises:
            RuntimeError: if the process died too often.
        """
        while True:
            try:
                self.unanswered[0].answer = self.pipe.recv()
            except (EOFError, OSError):
                self._start_again()
                continue
            self.unanswered.popleft()
            return

    def _start_again(self) -> None:
        self.pipe.close()
        status = self.process.wait()
        if self.restarts == MOST_RESTARTS:
            raise RuntimeError(
                f"a decoding process died {MOST_RESTARTS + 1} times, at last with status {status} "
                "(-9: killed, often because memory ran out); lower data.num_decode_workers"
            )
        self.restarts += 1
        self.process, self.pipe = self.start()
        with suppress(OSError):  # already dead: the next receive restarts it
            for awaited in self.unanswered:
                self.pipe.send(awaited.task)

    def close(self) -> None:
        """End the process by closing its pipe."""
        self.pipe.close()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class PendingResult:
    """A task's future result."""

    def __init__(self, decoder: DecodeWorker, task: DecodeTask) -> None:
        self.decoder, self.task = decoder, task
        self.answer: Names | Exception | None = None

    def result(self) -> Names:
        """Wait for the names of the samples made.

        Raises:
            UserError: if a sample is damaged.
        """
        while self.answer is None:
            self.decoder.receive()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def samples_file(manifest: Manifest) -> int:
    """Open the file that all processes map the manifest's samples from."""
    if manifest.mapped:
        return os.open(manifest.mapped, os.O_RDONLY)
    number = nameless_file(0)
    with (
        open(number, "wb", closefd=False) as file,
        pa.ipc.new_file(file, manifest.samples.schema) as writer,
    ):
        writer.write_table(manifest.samples)
    return number


def nameless_file(size: int) -> int:
    """Open a file of ``size`` bytes without a name; it is deleted with its last descriptor.

    In memory where the system can: beyond /dev/shm, which containers make too small for batches.
    """
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("infill-batches")
    else:
        with tempfile.TemporaryFile() as named:
            file = os.dup(named.fileno())
    os.ftruncate(file, size)
    return file
