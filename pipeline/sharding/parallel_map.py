"""Run numbered tasks over the cluster with Ray Data; results arrive as they finish."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from infill.pipeline.attempts import Attempts, counted_attempts
from infill.pipeline.cluster import quiet_data
from infill.pipeline.error_sentences import sentence_of
from infill.pipeline.errors import UserError
from infill.pipeline.progress import shows_everything

Result = dict[str, Any]
REFUSAL = "refusal"
"""Key of the user's error in a result."""


def parallel_map(task: Callable[[int], Result], count: int) -> Iterator[Result]:
    """Yield ``task(number)`` for every number below ``count``, in the order they finish.

    Runs on the driver, which holds only a few results at a time; Ray must be connected.

    Args:
        task: runs in a worker; returns a small dictionary of plain values.
        count: number of tasks; each is a block of its own and runs on any free core.

    Raises:
        UserError: the one that a task raised, without Ray's wrapping.
    """
    if not count:
        return
    from ray import data

    data.DataContext.get_current().enable_progress_bars = shows_everything()
    with quiet_data(), counted_attempts() as attempts:
        run = partial(_run, task, attempts)
        for result in data.range(count, override_num_blocks=count).map(run).iter_rows():
            if sentence := result.pop(REFUSAL):
                raise UserError(sentence)
            yield result


def _run(task: Callable[[int], Result], attempts: Attempts, row: Result) -> Result:
    """Run one task; its error, which Ray Data would not bring to the driver, is a result."""
    number = int(row["id"])
    try:
        with attempts.at(f"part {number}"):
            return {REFUSAL: "", **task(number)}
    except Exception as error:
        return {REFUSAL: sentence_of(error)}
