"""Middleware before the routes: API keys, admission, body size, deadline.

It refuses a request before its body is read if possible. Every response has the documented shape
and a request id, and one log line, which never contains image content.
"""

import asyncio
import logging
import re
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http.auth import ApiKeyAuth
from infill.pipeline.serving.http.error_shapes import error_response
from infill.pipeline.serving.http.request_metrics import RequestMetrics
from infill.pipeline.serving.limits import LimitsConfig

BATCH_PATH = "/v1/inpaint/batch"
OPEN_PATHS = frozenset(
    {"/", "/example.jpg", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"}
    | {"/v2/health/live", "/v2/health/ready"}
)
"""Paths that need no API key; their responses contain nothing about images."""

log = logging.getLogger("infill.serving")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class _Exchange:
    """One request and its response on their way through the middleware."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_bytes: int) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self._max_bytes = max_bytes
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = _request_id(self.headers)
        self.caller = ""
        self.status = 0
        self.body_complete = False
        self._bytes = 0
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self._started

    @property
    def code(self) -> str:
        """The error code, if the request was refused."""
        return str(self.scope["state"].get("code", ""))

    @property
    def route(self) -> str:
        """The route's template: one of few, whatever paths clients try."""
        return str(getattr(self.scope.get("route"), "path", "other"))

    def refuse_long_body(self, size: int) -> None:
        """Raise if the body exceeds the limit."""
        if size > self._max_bytes:
            raise RequestError(
                413, "too_large", f"the body has more than {self._max_bytes:,} bytes; send less"
            )

    async def receive(self) -> Message:
        """Pass the body on, counting its bytes."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self.refuse_long_body(self._bytes)
            self.body_complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass the response on, with the request id in its headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.request_id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, refusal: RequestError) -> None:
        """Send an error response, unless a response has begun already."""
        self.scope["state"]["code"] = refusal.code
        if not self.status:
            response = error_response(refusal, self.request_id, self.scope["path"])
            await response(self.scope, self._receive, self.send)


class AdmissionMiddleware:
    """ASGI middleware: keys, admission, body size, deadline, request ids, metrics and log."""

    def __init__(
        self, app: ASGIApp, config: LimitsConfig, auth: ApiKeyAuth, metrics: RequestMetrics
    ) -> None:
        self._app = app
        self._config = config
        self._auth = auth
        self._metrics = metrics
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bulky = scope["path"] == BATCH_PATH
        limit = self._config.max_batch_body_bytes if bulky else self._config.max_body_bytes
        exchange = _Exchange(scope, receive, send, limit)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        try:
            await self._pass(exchange, bulky)
        finally:
            self._record(exchange)

    async def _pass(self, exchange: _Exchange, bulky: bool) -> None:
        timeout_s = self._config.batch_timeout_s if bulky else self._config.request_timeout_s
        try:
            costly = self._admit(exchange)
            self._inside += costly
            self._metrics.inside.set(self._inside)
            try:
                async with asyncio.timeout(timeout_s):
                    await self._app(exchange.scope, exchange.receive, exchange.send)
            finally:
                self._inside -= costly
                self._metrics.inside.set(self._inside)
        except RequestError as refusal:
            await exchange.refuse(refusal)
        except TimeoutError:
            await exchange.refuse(self._too_late(exchange.body_complete, timeout_s))
        except Exception:
            log.exception("defect", extra={"request_id": exchange.request_id})
            await exchange.refuse(RequestError(500, "internal", "the service failed; see its log"))

    def _admit(self, exchange: _Exchange) -> bool:
        """Refuse by the headers if possible; return whether the request is a costly one."""
        if exchange.scope["path"] not in OPEN_PATHS:
            exchange.caller = self._auth.admit(exchange.headers)
        if exchange.scope["method"] != "POST":
            return False
        if self._inside >= self._config.max_waiting:
            raise RequestError(
                503,
                "busy",
                f"{self._inside} requests are waiting already; try again in a moment",
                self._config.retry_after_s,
            )
        announced = exchange.headers.get(b"content-length", b"0")
        if announced.isdigit():
            exchange.refuse_long_body(int(announced))
        return True

    def _too_late(self, body_complete: bool, timeout_s: float) -> RequestError:
        if not body_complete:
            return RequestError(
                408, "slow_request", f"the body did not arrive within {timeout_s:g} s"
            )
        return RequestError(
            503,
            "busy",
            f"no answer within {timeout_s:g} s; try again, with a smaller image if you can",
            self._config.retry_after_s,
        )

    def _record(self, exchange: _Exchange) -> None:
        """Count the request and log its line."""
        self._metrics.count(exchange.route, exchange.status, exchange.code, exchange.seconds)
        facts: dict[str, Any] = {
            "request_id": exchange.request_id,
            "caller": exchange.caller,
            "method": exchange.scope["method"],
            "route": exchange.route,
            "status": exchange.status,
            "code": exchange.code,
            "duration_ms": round(1000 * exchange.seconds, 1),
        }
        log.info("request", extra={name: value for name, value in facts.items() if value != ""})


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return the client's request id if it is a harmless word, else a new one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
