"""Train on a cluster of two nodes: one is taken away after a notice, another comes and is lost.

python tests/pipeline/training/two_nodes.py CONFIG.json

Prints the run's lines, and "noticed", "taken", "come", "lost" and "enough" between them; then it
leaves the training where it is.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from infill.pipeline import checkpoints
from infill.pipeline.config import from_json
from infill.pipeline.training import TrainConfig, launcher, train

launcher.RESIZE_EVERY_S = 5.0


def steps_taken(run: str) -> int:
    return max(checkpoints.steps(run), default=0)


def recorded_steps(run: str) -> int:
    """Return the last step of the run whose record is in its file."""
    [file] = Path(run).glob("progress-*.jsonl")
    whole_lines, _, _ = file.read_text().rpartition("\n")
    return int(json.loads(whole_lines.splitlines()[-1])["step"])


def announce_the_end_of(node: Any, cluster: Cluster) -> None:
    """Notify Ray, as a cloud does, that a node will be removed, an hour ahead."""
    command = [
        str(Path(sys.executable).with_name("ray")),
        "drain-node",
        "--address",
        cluster.address,
        "--node-id",
        node.node_id,
    ]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "wanted back"]
    command += ["--deadline-remaining-seconds", "3600"]
    subprocess.run(command, check=True, capture_output=True)


def leave(cluster: Cluster) -> None:
    """End this process in the middle of the training, and the cluster a moment later.

    The other way round the training's threads would look for another Ray, and might find one.
    """
    infos = [info for node in cluster.list_all_nodes() for info in node.all_processes.values()]
    pids = " ".join(str(one.process.pid) for found in infos for one in found)
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {pids}"], start_new_session=True)
    os._exit(0)


def main(config: TrainConfig) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    failed: list[BaseException] = []

    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(f"{line}\n", end="", flush=True)  # In one piece: two threads say something.

    def wait_until(holds: Callable[[], bool]) -> None:
        while training.is_alive() and not holds():
            time.sleep(0.05)

    def started_again() -> int:
        return sum("resuming at step" in line for line in said)

    def run() -> None:
        try:
            train(config, say)
        except BaseException as error:
            failed.append(error)

    training = threading.Thread(target=run)
    training.start()
    wait_until(lambda: steps_taken(config.storage) > 0)
    announce_the_end_of(other, cluster)
    say("noticed")
    wait_until(lambda: any("saved at step" in line for line in said))
    cluster.remove_node(other, allow_graceful=False)
    say("taken")
    wait_until(lambda: started_again() == 1)
    third = cluster.add_node(num_cpus=1)
    say("come")
    wait_until(lambda: started_again() == 2)
    after = steps_taken(config.storage)
    wait_until(lambda: steps_taken(config.storage) > after)
    cluster.remove_node(third, allow_graceful=False)
    say("lost")
    wait_until(lambda: started_again() == 3)
    after = steps_taken(config.storage)
    wait_until(lambda: recorded_steps(config.storage) > after)
    if failed:
        raise failed[0]
    say("enough")
    leave(cluster)


if __name__ == "__main__":
    main(from_json(TrainConfig, Path(sys.argv[1]).read_text()))
