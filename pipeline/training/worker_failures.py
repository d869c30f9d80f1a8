"""Report workers that died, and which process holds the memory of their node.

Ray Train restarts them from the newest checkpoint, and says nothing of it to the user.
"""

import os
import re
from typing import Any

import ray
from ray.train import UserCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infill.pipeline.memory_holders import largest_holder
from infill.pipeline.tracking import Record


class WorkerFailures(UserCallback):
    """A callback of Ray Train, in its controller.

    Args:
        box: the handle of the record queue.
    """

    def __init__(self, box: Any) -> None:
        self._box = box

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Report the first worker whose process has died, with what its node knows."""
        for rank, error in sorted(worker_exceptions.items()):
            if reason := reason_of(str(error)):
                report = f"worker {rank} has died: {reason}"
                _on_node(node_of(str(error)), self._box, report)
                return


def reason_of(text: str) -> str:
    """Return why a process has died, from Ray's message; "" if an error of Python ended it."""
    if "low on memory" in text or re.search(r"Memory on the node .* was .*GB used", text):
        return "Ray's monitor of memory ended it, as its node was short of memory"
    if "worker process has died" in text or "actor died unexpectedly" in text:
        return "the system, for lack of memory perhaps, or a person ended its process"
    return ""


def node_of(text: str) -> str:
    """Return the address of the node in Ray's message about a death; "" if there is none."""
    found = re.search(r"\bip: ([\w.:]+)", text, re.IGNORECASE)
    return found[1] if found else ""


def with_holder(report: str, node: str, holder: str) -> str:
    """Return the sentence about a death, with the process that holds most memory on the node."""
    where = f"on its node {node}" if node else "on its node"
    held = f"; {where}, {holder}, holds most memory outside this job" if holder else ""
    return f"{report}{held}; restarting from the newest checkpoint (max_failures)"


def _on_node(address: str, box: Any, report: str) -> None:
    """Let a task on the node complete and send the report; without the node, send it from here."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    ids = [node["NodeID"] for node in alive if node["NodeManagerAddress"] == address]
    if not ids:
        send(box, with_holder(report, address, ""))
        return

    def look() -> None:
        # The task's parent is Ray on this node, and that of all workers here.
        send(box, with_holder(report, address, largest_holder(own=os.getppid())))

    strategy = NodeAffinitySchedulingStrategy(ids[0], soft=False)
    ray.remote(num_cpus=0, scheduling_strategy=strategy)(look).remote()


def send(box: Any, text: str) -> None:
    """Send a sentence to the run's record queue, to be logged."""
    box.put.remote(Record(kind="note", step=0, text=text))
