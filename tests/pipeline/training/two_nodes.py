"""Train on a cluster of two nodes, of which one is lost and another one comes.

python tests/pipeline/training/two_nodes.py CONFIG.json

Prints the run's lines, and "lost" and "come" between them.
"""

import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from pipeline import checkpoints
from pipeline.config import from_json
from pipeline.training import TrainConfig, driving, train

driving.RESIZE_EVERY_S = 5.0


def steps_taken(run: str) -> int:
    return max(checkpoints.steps(run), default=0)


def main(config: TrainConfig) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    failed: list[BaseException] = []

    def run() -> None:
        try:
            train(config, lambda line: print(line, flush=True))
        except BaseException as error:
            failed.append(error)

    training = threading.Thread(target=run)
    training.start()
    while not steps_taken(config.storage) and training.is_alive():
        time.sleep(0.05)
    cluster.remove_node(other, allow_graceful=False)
    print("lost", flush=True)
    after = steps_taken(config.storage)
    while steps_taken(config.storage) <= after and training.is_alive():
        time.sleep(0.05)
    cluster.add_node(num_cpus=1)
    print("come", flush=True)
    training.join()
    ray.shutdown()
    cluster.shutdown()
    if failed:
        raise failed[0]


if __name__ == "__main__":
    main(from_json(TrainConfig, Path(sys.argv[1]).read_text()))
