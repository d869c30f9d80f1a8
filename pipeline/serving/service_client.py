"""What the clients of the endpoint share: configuration, error, HTTP connection and retries.

Temporary failures are retried: a full queue (503 or 429, after the seconds of Retry-After), a
replica being replaced, a broken connection. A defect of the service (500) and a body that arrived
too slowly (408) are retried only a few times. A request that must not happen twice is retried only
if the service refused it with 429 or 503. Any other error raises :class:`ServiceError` with the
service's own code and sentence.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

_REFUSED = (429, 503)
_PASSING = (*_REFUSED, 502, 504)
_PERHAPS_PASSING = (408, 500)
_FEW = 3
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 5.0


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """The address of the endpoint, the API key and the timeouts."""

    url: str = "http://127.0.0.1:8000"
    """Base URL of the service."""
    api_key: str = field(default="", repr=False)
    """API key, sent as a bearer token; empty if the service needs none."""
    timeout_s: float = 120.0
    """Timeout of one attempt in seconds."""
    batch: bool = False
    """Whether interactive requests of others go first in the service."""
    retry_timeout_s: float = 300.0
    """Timeout of all attempts of one request together, in seconds."""

    def http_options(self) -> dict[str, Any]:
        """Return the options of an HTTP client: base URL, headers and timeout."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        if self.batch:
            headers["X-Infill-Priority"] = "batch"
        return {"base_url": self.url, "headers": headers, "timeout": self.timeout_s}


class ServiceError(Exception):
    """The service refused a request, and retries would not help.

    Args:
        status: the HTTP status; 0 if there was no response.
        code: the service's code, see :mod:`infill.pipeline.serving.errors`.
        message: its sentence.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message = status, code, message

    def __str__(self) -> str:
        """Return the sentence and the code."""
        return f"{self.message} ({self.code})"


class ServiceClient:
    """An HTTP connection to the service, for one thread; a context manager."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._http = httpx.Client(**config.http_options())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._http.close()

    def _send(
        self, method: str, path: str, *, repeatable: bool = True, **body: Any
    ) -> httpx.Response:
        """Send a request until it succeeds; ``repeatable`` if a second one changes nothing."""
        attempts = Attempts(self._config.retry_timeout_s, repeatable)
        for _ in attempts:
            try:
                response = self._http.request(method, path, **body)
            except httpx.TransportError as error:
                attempts.failed(error)
            else:
                if not attempts.again(response):
                    return response
            time.sleep(attempts.wait_s)
        raise attempts.last


class Attempts:
    """The attempts of one request, with exponential backoff between them.

    Args:
        timeout_s: timeout of all attempts together, in seconds.
        repeatable: whether the request may be sent again after it may have been carried out.
    """

    def __init__(self, timeout_s: float, repeatable: bool = True) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._repeatable = repeatable
        self._backoff_s = _FIRST_BACKOFF_S
        self._doubtful = 0
        self.wait_s = 0.0
        self.last = ServiceError(0, "not_ready", "no attempt was made")

    def __iter__(self) -> Iterator[int]:
        number = 0
        while number == 0 or time.monotonic() + self.wait_s < self._deadline:
            yield number
            number += 1

    def failed(self, error: httpx.TransportError) -> None:
        """Record an attempt without a response.

        Raises:
            ServiceError: if the request must not be sent again, or there is no time for it.
        """
        self.last = no_answer(error)
        if not self._repeatable and not isinstance(error, httpx.ConnectError):
            raise self.last from error
        self._back_off(0)

    def again(self, response: httpx.Response) -> bool:
        """Return whether a response calls for another attempt, and record it.

        Raises:
            ServiceError: if the service refused, and another attempt would not help or comes too
                late.
        """
        if response.is_success:
            return False
        self.last = refusal(response)
        if not self._may_pass(response.status_code):
            raise self.last
        given = response.headers.get("retry-after", "")
        self._back_off(float(given) if given.isdecimal() else 0)
        return True

    def _may_pass(self, status: int) -> bool:
        if not self._repeatable:
            return status in _REFUSED
        self._doubtful += status in _PERHAPS_PASSING
        return status in _PASSING or (status in _PERHAPS_PASSING and self._doubtful < _FEW)

    def _back_off(self, least_s: float) -> None:
        """Choose the next wait, or raise the last error if it would outlast the timeout."""
        self.wait_s = max(least_s, self._backoff_s)
        if time.monotonic() + self.wait_s >= self._deadline:
            raise self.last
        self._backoff_s = min(2 * self._backoff_s, _LONGEST_BACKOFF_S)


def no_answer(error: httpx.TransportError) -> ServiceError:
    """Return the error of a request that got no complete response."""
    return ServiceError(0, "not_ready", f"no answer: {str(error) or type(error).__name__}")


def refusal(response: httpx.Response) -> ServiceError:
    """Read the documented error of a response; the response of a proxy may have another shape."""
    try:
        error = response.json()["error"]
        return ServiceError(response.status_code, error["code"], error["message"])
    except (ValueError, KeyError, TypeError):
        return ServiceError(response.status_code, "internal", f"status {response.status_code}")
