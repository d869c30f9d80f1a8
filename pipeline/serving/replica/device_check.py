"""Whether the replica's device still computes: a tiny sum on it, in bounded time.

After a failed assertion on a GPU, an error of its memory or of its driver, the CUDA context of a
process is dead: every later call fails, while the process itself lives and answers. No
synchronization with the forward passes is needed, since the sum has a stream of its own.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch

TIMEOUT_S = 20.0
"""Seconds that the sum may take; Serve itself gives a health check 30."""
_SUM = 204.0  # 1 + 4 + 9 + ... + 64


class DeviceError(RuntimeError):
    """The device of this process computes no more; only a new process can use it."""


def compute_on(device: str) -> float:
    """Return the sum of the first eight squares, computed on a device."""
    target = torch.device(device)
    if target.type == "cuda":
        with torch.cuda.stream(_stream(target)):
            return _sum_of_squares(target)
    return _sum_of_squares(target)


def _sum_of_squares(target: torch.device) -> float:
    values = torch.arange(1.0, 9.0, device=target)
    return float((values * values).sum().item())


@lru_cache(maxsize=1)
def _stream(target: torch.device) -> torch.cuda.Stream:
    """Return a stream that does not wait for forward passes."""
    return torch.cuda.Stream(target, priority=-1)  # type: ignore[no-untyped-call]


class DeviceCheck:
    """Finds a device that fails, hangs or computes wrong results.

    Args:
        device: the device, "cpu" or "cuda".
        timeout_s: seconds that the computation may take.
        compute: the computation, whose result is known.
    """

    def __init__(
        self,
        device: str,
        timeout_s: float = TIMEOUT_S,
        compute: Callable[[str], float] = compute_on,
    ) -> None:
        self._device = device
        self._timeout_s = timeout_s
        self._compute = compute
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device-check")
        self._pending: Future[float] | None = None
        self._failure = ""

    async def run(self) -> None:
        """Compute on the device.

        A failure is remembered, because a dead context stays dead. A computation that hangs is not
        started twice: later checks wait for the same one.

        Raises:
            DeviceError: if the device fails, gives a wrong result, or takes too long.
        """
        if self._failure:
            raise DeviceError(self._failure)
        if self._pending is None:
            self._pending = self._thread.submit(self._compute, self._device)
        waiting = asyncio.wrap_future(self._pending)
        try:
            found = await asyncio.wait_for(asyncio.shield(waiting), self._timeout_s)
        except TimeoutError:
            raise DeviceError(
                f"{self._device} has not computed a sum within {self._timeout_s:g} s"
            ) from None
        except Exception as error:
            self._failure = f"{self._device} computes no more: {_first_line(error)}"
            raise DeviceError(self._failure) from error
        self._pending = None
        if found != _SUM:
            self._failure = f"{self._device} computed {found} in place of {_SUM}"
            raise DeviceError(self._failure)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
