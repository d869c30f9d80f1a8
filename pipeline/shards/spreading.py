"""Numbered tasks spread over the cluster by Ray Data, one result each, as they finish."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.config import UserError, explain

Result = dict[str, Any]
REFUSAL = "refusal"
"""In a result: what a person has to put right."""


def spread(task: Callable[[int], Result], count: int) -> Iterator[Result]:
    """Yield ``task(number)`` for every number below ``count``, in the order they finish.

    Runs on the driver, which holds no more than a few results at a time; Ray must be at hand.

    Args:
        task: runs in a worker; returns a small dictionary of plain values.
        count: of tasks; each is a block of its own, handed out wherever a core is free.

    Raises:
        UserError: what a task raised for a person, without what Ray wraps around it.
    """
    from ray import data

    def run(row: Result) -> Result:
        try:
            return {REFUSAL: "", **task(int(row["id"]))}
        except Exception as error:
            # Ray Data would bring it to the driver without its cause, and so without its sentence.
            sentence = explain(error)
            if sentence is None:
                raise
            return {REFUSAL: sentence}

    if not count:
        return
    data.DataContext.get_current().enable_progress_bars = False
    with _quiet("ray.data"):
        for result in data.range(count, override_num_blocks=count).map(run).iter_rows():
            if sentence := result.pop(REFUSAL):
                raise UserError(sentence)
            yield result


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep Ray Data from printing, two or three times over, an error that we raise."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
