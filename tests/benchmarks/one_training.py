"""Take the steps of a training in a bare loop, with its batches already in memory.

torchrun --nproc-per-node 2 tests/benchmarks/one_training.py CONFIG.json WARM STEPS

Prints the seconds of a step, over STEPS of them after WARM, as JSON: what a training costs without
anything around it.
"""

import itertools
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed

from infill.pipeline.config import from_json
from infill.pipeline.loading import BatchStream
from infill.pipeline.training import TrainConfig, WorkerContext, build_objective, find_sets


def main(config: TrainConfig, warm: int, steps: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    place = WorkerContext(rank=distributed.get_rank(), world_size=distributed.get_world_size())
    objective = build_objective(config, place)
    data = replace(config.data, shards=find_sets(config.data.shards)[0])
    with BatchStream(data, place.rank, place.world_size, 0) as stream:
        batches = list(itertools.islice(stream, warm + steps))
    distributed.barrier()
    for index, batch in enumerate(batches):
        if index == warm:
            distributed.barrier()
            start = time.perf_counter()
        objective.step_with_accumulation(batch)
    distributed.barrier()
    if place.rank == 0:
        print(json.dumps({"step_s": (time.perf_counter() - start) / steps}), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(from_json(TrainConfig, Path(sys.argv[1]).read_text()), int(sys.argv[2]), int(sys.argv[3]))
