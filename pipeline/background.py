"""Run a function in a thread beside a block, which ends it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(work: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Run ``work`` in a thread of this name; at the block's end, set its event and wait for it.

    Args:
        work: takes the event, and returns soon after it is set. An error of it ends the thread, not
            the block.
        name: name of the thread.
    """
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
