"""Search on a cluster of two nodes, one of which is lost while both work.

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

from pipeline import checkpoints
from pipeline.config import from_json
from pipeline.tuning import TuneConfig, plan, tune

SPACE = {"model.image_weight": [1.0, 10.0, 100.0]}


def main(config: TuneConfig) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    runs = [training.storage for _, training in plan(config, SPACE)]

    def lose() -> None:
        while sum(bool(checkpoints.steps(run)) for run in runs) < 2:
            time.sleep(0.05)
        cluster.remove_node(other, allow_graceful=False)
        print("lost", flush=True)

    threading.Thread(target=lose, daemon=True).start()
    result = tune(config, SPACE, lambda line: print(line, flush=True))
    print(json.dumps([asdict(trial) for trial in result.trials]), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(from_json(TuneConfig, Path(sys.argv[1]).read_text()))
