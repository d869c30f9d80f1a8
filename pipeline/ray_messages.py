"""Ray's messages to the driver, each in one line.

Ray prints thirty lines for each worker that its memory monitor ends, a line for each call that
waits until an actor has started again, and a traceback for each call that failed and whose result
nobody asked for. On the driver we wait for each of ours, so that these are of Ray's own libraries,
such as Ray Data's statistics, whose actor may have been ended for its memory as well.
"""

import re
from typing import Any

from infill.pipeline.error_sentences import memory_of_node


def in_one_line() -> None:
    """Let this process print a line for each message of Ray. On the driver, before it connects."""
    from ray._private import worker

    usual = worker.print_to_stdstream

    def show(data: dict[str, Any], *args: Any, **options: Any) -> None:
        if data.get("pid") != "raylet":
            usual(data, *args, **options)
            return
        for message in data["lines"]:
            if line := line_of(message):
                print(line, flush=True)

    if usual.__module__ == worker.__name__:  # Not replaced yet.
        worker.print_to_stdstream = show
        worker._unhandled_error_handler = lambda error: None


def line_of(message: str) -> str:
    """Return a message of Ray in a line; "" if there is nothing that a person needs to know."""
    if memory := memory_of_node(message):
        left = re.search(r"(\d+) oom retries remaining", message)
        again = f"; its work is done again, {left[1]} times at most" if left else ""
        return f"Ray's memory monitor has ended a worker of this job: {memory}{again}"
    if "temporarily unavailable" in message or "The actor was restarted" in message:
        return ""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"Ray: {lines[0]}" if lines else ""
