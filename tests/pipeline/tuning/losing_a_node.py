"""Search on a cluster of two nodes, one of which is lost while its trial trains.

python tests/pipeline/tuning/losing_a_node.py CONFIG.json

Prints the search's lines, "lost" when the node is gone, and the trials as JSON at the end.
"""

import json
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from infill.pipeline import checkpoints
from infill.pipeline.config import from_json
from infill.pipeline.tuning import TuneConfig, TuneResult, plan, tune

SPACE = {"model.image_weight": [1.0, 10.0]}


def main(config: TuneConfig) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    first = cluster.add_node(num_cpus=1)  # After this process has taken the head for its own.
    runs = [training.storage for _, training in plan(config, SPACE)]

    results: list[TuneResult] = []

    def say(line: str) -> None:
        print(f"{line}\n", end="", flush=True)  # In one piece: two threads say something.

    def search() -> None:
        results.append(tune(config, SPACE, say))

    searching = threading.Thread(target=search)
    searching.start()
    while not any(checkpoints.steps(run) for run in runs):
        time.sleep(0.01)
    cluster.remove_node(first, allow_graceful=False)
    say("lost")
    cluster.add_node(num_cpus=1)  # In the main thread, as Ray's own hooks need it.
    searching.join()
    say(json.dumps([asdict(trial) for trial in results[0].trials]))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(from_json(TuneConfig, Path(sys.argv[1]).read_text()))
