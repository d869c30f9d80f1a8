"""Who is let in: how many requests at once, how many bytes, for how long.

:class:`Gate` stands before the whole application. It refuses before a body is read where it can,
and whatever happens behind it, the answer has the documented shape and a request id.
"""

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serving.errors import Refusal, error_body

log = logging.getLogger("infill.serving")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What a request may cost."""

    max_body_bytes: int = 32 * 2**20
    """Of a request, image and mask together."""
    max_pixels: int = 25_000_000
    """Height times width of an image, as its header claims."""
    max_waiting: int = 32
    """Requests inside the service at once; more are answered 503 with Retry-After."""
    request_timeout_s: float = 60.0
    """From the first byte to the answer."""
    retry_after_s: int = 1
    """What a 503 asks its caller to wait."""

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_pixels", "max_waiting", "request_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")


class _Exchange:
    """One request and its answer, on their way through the gate."""

    def __init__(self, receive: Receive, send: Send, config: LimitsConfig, request_id: str) -> None:
        self._receive, self._send, self._config = receive, send, config
        self.request_id = request_id
        self.status = 0
        self.body_complete = False
        self._bytes = 0

    async def receive(self) -> Message:
        """Pass the body on, counting its bytes."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            refuse_body_over(self._bytes, self._config.max_body_bytes)
            self.body_complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on, with the request id in its headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.request_id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, scope: Scope, refusal: Refusal) -> None:
        """Answer with an error, unless the answer has begun already."""
        if self.status:
            return
        await error_response(refusal, self.request_id)(scope, self._receive, self.send)


class Gate:
    """ASGI middleware: admission, body size, deadline, request ids and the access log."""

    def __init__(self, app: ASGIApp, config: LimitsConfig) -> None:
        self._app = app
        self._config = config
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        exchange = _Exchange(receive, send, self._config, _request_id(headers))
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        started = time.perf_counter()
        try:
            await self._pass(scope, headers, exchange)
        finally:
            log.info(
                "request",
                extra={
                    "request_id": exchange.request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": exchange.status,
                    "duration_ms": round(1000 * (time.perf_counter() - started), 1),
                },
            )

    async def _pass(self, scope: Scope, headers: dict[bytes, bytes], exchange: _Exchange) -> None:
        costly = scope["method"] == "POST"
        try:
            if costly:
                self._admit(headers)
            self._inside += costly
            try:
                async with asyncio.timeout(self._config.request_timeout_s):
                    await self._app(scope, exchange.receive, exchange.send)
            finally:
                self._inside -= costly
        except Refusal as refusal:
            await exchange.refuse(scope, refusal)
        except TimeoutError:
            await exchange.refuse(scope, self._too_late(exchange.body_complete))
        except Exception:
            log.exception("defect", extra={"request_id": exchange.request_id})
            await exchange.refuse(
                scope, Refusal(500, "internal", "the service failed; see its log")
            )

    def _admit(self, headers: dict[bytes, bytes]) -> None:
        if self._inside >= self._config.max_waiting:
            raise Refusal(
                503,
                "busy",
                f"{self._inside} requests are waiting already; try again in a moment",
                self._config.retry_after_s,
            )
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit():
            refuse_body_over(int(announced), self._config.max_body_bytes)

    def _too_late(self, body_complete: bool) -> Refusal:
        limit = f"{self._config.request_timeout_s:g} s"
        if not body_complete:
            return Refusal(408, "slow_request", f"the body did not arrive within {limit}")
        return Refusal(
            503,
            "busy",
            f"no answer within {limit}; try again, with a smaller image or hole if you can",
            self._config.retry_after_s,
        )


def refuse_body_over(size: int, limit: int) -> None:
    """Raise if a body has more bytes than are accepted."""
    if size > limit:
        raise Refusal(
            413, "too_large", f"the body has more than {limit:,} bytes; send a smaller image"
        )


def error_response(refusal: Refusal, request_id: str) -> JSONResponse:
    """Return a refusal as the documented JSON answer."""
    content: dict[str, Any] = error_body(refusal.code, refusal.detail, request_id)
    return JSONResponse(content, refusal.status_code, headers=refusal.headers)


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return the caller's request id if it is a harmless word, else a new one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
