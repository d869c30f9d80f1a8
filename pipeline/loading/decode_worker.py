"""The main loop of a decoding process; it ends when its pipe closes.

So it outlives no worker, however that one died.
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
    """Fill what the worker asks for, until it goes away."""
    setup: WorkerSetup = pipe.recv()
    values = np.frombuffer(mmap.mmap(memory, 0), np.float32)
    frames = SharedBuffers(values, setup.slots, setup.count, setup.config.image_size_px)
    listed = mmap.mmap(samples, 0, access=mmap.ACCESS_READ)
    table = pa.ipc.open_file(pa.py_buffer(listed)).read_all()  # in place, for all processes
    dataset = InpaintingDataset(setup.config, replace(setup.manifest, samples=table))
    while True:
        pipe.send(answer(dataset, frames, pipe.recv()))


def answer(
    dataset: InpaintingDataset, frames: SharedBuffers, task: DecodeTask
) -> Names | Exception:
    """Fill a task's slots, or return why that could not be done."""
    try:
        return frames.fill(dataset, task)
    except UserError as error:
        return error
    except Exception:
        return RuntimeError(f"a decoding process failed:\n{traceback.format_exc()}")


def main(pipe: int, memory: int, samples: int) -> None:
    """Serve on these open files, inherited from the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's to answer
    cv2.setNumThreads(1)
    gc.freeze()  # what has been imported is here to stay: the collector need not look at it again
    with suppress(EOFError, ConnectionError):
        serve(Connection(pipe), memory, samples)
