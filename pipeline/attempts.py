"""End a job whose workers are lost at the same piece of work again and again.

Ray Data starts a worker again without limit, whatever ended it. One that the kernel ends for its
memory, at an image that is too large for the node, would be started for ever. The attempts at each
piece are counted in the key-value store of Ray's head, which outlives the workers.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from infill.pipeline.errors import UserError, printable

MOST_ATTEMPTS = 5
NAMESPACE = b"infill-attempts"


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """The attempts at the pieces of one job."""

    job: str = ""
    """Name of the job; "" counts nothing, for work in the driver's own process."""

    @contextmanager
    def at(self, piece: str) -> Iterator[None]:
        """Count an attempt until the block ends, with or without an exception. In a worker.

        Args:
            piece: name of the work for the user; no two pieces of the job share one.

        Raises:
            UserError: if too many processes have ended in it.
        """
        if not self.job:
            yield
            return
        from ray.experimental import internal_kv

        key = f"{self.job}/{piece}".encode("utf-8", "surrogateescape")
        begun = int(internal_kv._internal_kv_get(key, namespace=NAMESPACE) or 0)
        if begun >= MOST_ATTEMPTS:
            raise UserError(
                f"Ray has lost {begun} workers of this job at {printable(piece)}, most often "
                "because their node ran out of memory: look at what it reads, give the job fewer "
                "workers a node or smaller batches, and give the same command again: finished "
                "parts are kept"
            )
        count = str(begun + 1).encode()
        internal_kv._internal_kv_put(key, count, overwrite=True, namespace=NAMESPACE)
        try:
            yield
        finally:
            internal_kv._internal_kv_del(key, namespace=NAMESPACE)


NOT_COUNTED = Attempts()


@contextmanager
def counted_attempts() -> Iterator[Attempts]:
    """Yield the attempts of a job, which are forgotten at its end. On the driver."""
    from ray.experimental import internal_kv

    attempts = Attempts(job=uuid.uuid4().hex)
    try:
        yield attempts
    finally:
        if internal_kv._internal_kv_initialized():
            prefix = f"{attempts.job}/".encode()
            internal_kv._internal_kv_del(prefix, del_by_prefix=True, namespace=NAMESPACE)
