"""The main loop of a decoding process.

It ends when its pipe closes, so it never outlives its worker.
"""

import gc
import mmap
import signal
import traceback
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection

import cv2
import numpy as np
import pyarrow as pa

from infill.pipeline.errors import UserError
from infill.pipeline.loading.dataset import InpaintingDataset
from infill.pipeline.loading.prefetch import DecodeTask, Names, SharedBuffers
from infill.pipeline.loading.workers import WorkerSetup


def serve(pipe: Connection, memory: int, samples: int) -> None:
    """Make the samples that the worker requests, until the worker closes the pipe."""
    setup: WorkerSetup = pipe.recv()
    values = np.frombuffer(mmap.mmap(memory, 0), np.uint8)
    frames = SharedBuffers(values, setup.layout)
    listed = mmap.mmap(samples, 0, access=mmap.ACCESS_READ)
    table = pa.ipc.open_file(pa.py_buffer(listed)).read_all()  # in place, for all processes
    dataset = InpaintingDataset(setup.config, replace(setup.manifest, samples=table))
    while True:
        pipe.send(answer(dataset, frames, pipe.recv()))


def answer(
    dataset: InpaintingDataset, frames: SharedBuffers, task: DecodeTask
) -> Names | Exception:
    """Fill a task's slots, or return the error."""
    try:
        return frames.fill(dataset, task)
    except UserError as error:
        return error
    except Exception:
        return RuntimeError(f"a decoding process failed:\n{traceback.format_exc()}")


def main(pipe: int, memory: int, samples: int) -> None:
    """Serve on these open files, inherited from the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker handles Ctrl-C
    cv2.setNumThreads(1)
    gc.freeze()  # imported modules stay: the garbage collector need not scan them again
    with suppress(EOFError, ConnectionError):
        serve(Connection(pipe), memory, samples)
