"""Middleware before the routes: API keys, admission, body size, deadline.

It refuses a request before its body is read if possible. Every response has the documented shape
and a request id, and one log line, which never contains image content.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http.auth import ApiKeyAuth
from infill.pipeline.serving.http.error_shapes import error_response
from infill.pipeline.serving.http.page_routes import PAGE_PATHS
from infill.pipeline.serving.http.request_ids import request_id_of, with_request_id
from infill.pipeline.serving.http.request_metrics import RequestMetrics
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.serving.node_counts import CountsThread

BATCH_PATH = "/v1/inpaint/batch"
BULKY_PATHS = frozenset({BATCH_PATH, "/v1/jobs"})
"""Paths whose requests carry many pairs."""
OPEN_PATHS = PAGE_PATHS | {
    *("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"),
    *("/v2/health/live", "/v2/health/ready"),
}
"""Paths that need no API key; their responses contain nothing about images."""
PROBE_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that answer under every name: probes call addresses."""


def is_open(path: str) -> bool:
    """Return whether a path needs no API key; ``/assets/`` holds files of a web application."""
    return path in OPEN_PATHS or path.startswith("/assets/")


log = logging.getLogger("infill.serving")
_FULL_FOR_S = 0.02
"""Seconds for which a service that is full refuses requests without counting those inside again."""


class BodyRate:
    """The rate at which a body has to arrive, while the service waits for it."""

    def __init__(self, config: LimitsConfig) -> None:
        self._config = config
        self._bytes = 0
        self._waited_s = 0.0
        self.between_parts = False
        """Whether the caller may take its time: it has sent whole pairs of a batch."""

    async def next(self, receive: Receive) -> Message:
        """Return the next part of the body.

        Raises:
            RequestError: 408 if it arrives too slowly.
        """
        config = self._config
        due_s = config.body_grace_s + self._bytes / config.min_body_bytes_per_s
        most_s = config.request_timeout_s if self.between_parts else due_s - self._waited_s
        started = time.perf_counter()
        try:
            async with asyncio.timeout(max(most_s, 0)):
                message = await receive()
        except TimeoutError as error:
            raise RequestError(
                408,
                "slow_request",
                f"the body arrives at less than {config.min_body_bytes_per_s:,} bytes a second",
            ) from error
        if not self.between_parts:
            self._waited_s += time.perf_counter() - started
        self._bytes += len(message.get("body", b""))
        return message


class _Exchange:
    """One request and its response on their way through the middleware."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        max_bytes: int,
        rate: BodyRate,
    ) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self._max_bytes = max_bytes
        self._rate = rate
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = request_id_of(scope["headers"])
        self.caller = ""
        self.status = 0
        self.body_complete = False
        self.bytes = 0
        self.on_bytes: Callable[[int], None] = _nothing
        """Called with the number of bytes that arrived."""
        self.on_whole: Callable[[], Awaitable[None]] = _no_wait
        """Called when the request is about to be processed: its body, or its first pair, is whole.
        May refuse it."""
        self._started = time.perf_counter()
        self._work: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._left = False
        self._answered = False

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

    async def run(self, app: ASGIApp) -> None:
        """Run the application until it has answered or the caller has left."""
        self._work = asyncio.ensure_future(app(self.scope, self.receive, self.send))
        try:
            await self._work
        except asyncio.CancelledError:
            if not self._left:
                raise
        finally:
            if self._watcher is not None:
                self._watcher.cancel()

    async def _watch(self) -> None:
        """End the work of a caller that leaves; runs once the body is whole."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and self._work is not None and not self._answered:
            self._left = True
            self._work.cancel()

    def refuse_long_body(self, size: int) -> None:
        """Raise if the body exceeds the limit."""
        if size > self._max_bytes:
            raise RequestError(
                413, "too_large", f"the body has more than {self._max_bytes:,} bytes; send less"
            )

    async def receive(self) -> Message:
        """Pass the body on, counting its bytes."""
        if self._watcher is not None:  # It alone listens; nothing but the end can follow.
            await asyncio.shield(self._watcher)
            return {"type": "http.disconnect"}
        message = await self._rate.next(self._receive)
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.bytes += size
            self.refuse_long_body(self.bytes)
            self.on_bytes(size)
            self.body_complete = not message.get("more_body", False)
            if self.body_complete:
                await self.on_whole()
                self._watcher = asyncio.create_task(self._watch())
        return message

    async def send(self, message: Message) -> None:
        """Pass the response on, with the request id in its headers."""
        if message["type"] == "http.response.start":
            if message["status"] == 200:
                await self.on_whole()
            self.status = message["status"]
            headers = with_request_id(message.get("headers", ()), self.request_id)
            if self.status == 408:  # The rest of the body is not waited for.
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self._answered = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, refusal: RequestError) -> None:
        """Send an error response, unless a response has begun already."""
        self.scope["state"]["code"] = refusal.code
        if not self.status:
            response = error_response(refusal, self.request_id, self.scope["path"])
            await response(self.scope, self._receive, self.send)


def _nothing(*_: int) -> None:
    """Do nothing."""


async def _no_wait() -> None:
    """Do nothing."""


class AdmissionMiddleware:
    """ASGI middleware: keys, admission, body size, deadline, request ids, metrics and log."""

    def __init__(
        self,
        app: ASGIApp,
        config: LimitsConfig,
        auth: ApiKeyAuth,
        metrics: RequestMetrics,
        counts: CountsThread,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._config = config
        self._auth = auth
        self._metrics = metrics
        self._hosts = frozenset(allowed_hosts)
        self._counts = counts
        self._bytes_inside = 0
        self._full_until_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bulky = scope["path"] in BULKY_PATHS
        limit = self._config.max_batch_body_bytes if bulky else self._config.max_body_bytes
        rate = BodyRate(self._config)
        exchange = _Exchange(scope, receive, send, limit, rate)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        scope["state"]["body_rate"] = rate
        try:
            await self._pass(exchange, bulky)
        finally:
            self._record(exchange)

    async def _pass(self, exchange: _Exchange, bulky: bool) -> None:
        timeout_s = self._config.batch_timeout_s if bulky else self._config.request_timeout_s
        ticket = _Ticket(self)
        try:
            if not is_open(exchange.scope["path"]):
                await self._auth.refresh()
            if await self._admit(exchange):
                ticket.begin()
                exchange.on_whole = ticket.take
                exchange.on_bytes = _nothing if bulky else ticket.count
            async with asyncio.timeout(timeout_s):
                await exchange.run(self._app)
        except RequestError as refusal:
            await exchange.refuse(refusal)
        except TimeoutError:
            await exchange.refuse(self._too_late(exchange.body_complete, timeout_s))
        except ClientDisconnect:
            pass
        except Exception:
            log.exception("defect", extra={"request_id": exchange.request_id})
            await exchange.refuse(RequestError(500, "internal", "the service failed; see its log"))
        finally:
            ticket.give_back()

    async def _admit(self, exchange: _Exchange) -> bool:
        """Refuse by the headers if possible; return whether the request is a costly one."""
        _require_one_host(exchange.scope)
        if self._hosts and exchange.scope["path"] not in PROBE_PATHS:
            host = exchange.headers.get(b"host", b"").decode("latin-1").rpartition("]")
            name = (host[0] + host[1]) or host[2].partition(":")[0]
            if name.lower() not in self._hosts:
                raise RequestError(400, "bad_request", "the service does not answer at this host")
        if not is_open(exchange.scope["path"]):
            exchange.caller = await self._auth.admit(exchange.headers)
            exchange.scope["state"]["caller"] = exchange.caller
        if exchange.scope["method"] != "POST":
            return False
        _refuse_compressed(exchange.headers)
        await self.refuse_if_full()
        announced = exchange.headers.get(b"content-length", b"0")
        if announced.isdigit():
            exchange.refuse_long_body(int(announced))
        return True

    async def refuse_if_full(self) -> None:
        """Raise if as many requests as allowed are processed."""
        if time.monotonic() < self._full_until_s:
            raise self._full()
        if await self._counts.requests() >= self._config.max_waiting:
            self._full_until_s = time.monotonic() + _FULL_FOR_S
            raise self._full()

    async def enter(self) -> None:
        """Count a request as inside.

        Raises:
            RequestError: 503 if as many requests as allowed are processed.
        """
        if not await self._counts.enter(self._config.max_waiting):
            raise self._full()
        self._metrics.inside.inc()

    def leave(self) -> None:
        """Count a request as inside no more."""
        self._full_until_s = 0.0
        self._counts.leave()
        self._metrics.inside.dec()

    def receive(self, requests: int, size: int) -> None:
        """Count requests whose body arrives, and bytes of bodies, that come or go.

        Raises:
            RequestError: 503 if the bodies are more than allowed together.
        """
        self._metrics.receiving.inc(requests)
        self._bytes_inside += size
        if size > 0 and self._bytes_inside > self._config.max_body_bytes_inside:
            raise self._busy("other requests fill the memory; try again in a moment")

    def _full(self) -> RequestError:
        most = self._config.max_waiting
        return self._busy(f"{most} requests are waiting already; try again in a moment")

    def _busy(self, message: str) -> RequestError:
        return RequestError(503, "busy", message, self._config.retry_after_s)

    def _too_late(self, body_complete: bool, timeout_s: float) -> RequestError:
        if not body_complete:
            return RequestError(
                408, "slow_request", f"the body did not arrive within {timeout_s:g} s"
            )
        return self._busy(
            f"no answer within {timeout_s:g} s; try again, with a smaller image if you can"
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


def _refuse_compressed(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a compressed body: a small one could become any number of bytes.

    Raises:
        RequestError: 415 unless the body is sent as it is.
    """
    coding = headers.get(b"content-encoding", b"").strip().lower()
    transfer = headers.get(b"transfer-encoding", b"").strip().lower()
    if coding not in (b"", b"identity") or transfer not in (b"", b"chunked"):
        refusal = RequestError(415, "unsupported_body", "send the body without compression")
        refusal.headers = {"Accept-Encoding": "identity"}
        raise refusal


def _require_one_host(scope: Scope) -> None:
    """Refuse a request whose host proxies could read in two ways (RFC 9112, Sec. 3.2).

    Raises:
        RequestError: 400 unless HTTP/1.1 comes with one Host header, and HTTP/1.0 with one at most.
    """
    found = sum(name == b"host" for name, _ in scope["headers"])
    if found > 1 or (not found and scope.get("http_version") == "1.1"):
        raise RequestError(400, "bad_request", f"send one Host header, not {found or 'none'}")


class _Ticket:
    """What one request holds of the limits of all requests together.

    A request counts as inside from the moment its body, or the first pair of a batch, is whole: a
    caller that sends slowly keeps no other out.
    """

    def __init__(self, middleware: AdmissionMiddleware) -> None:
        self._middleware = middleware
        self._entering: asyncio.Future[None] | None = None
        self._receiving = 0
        self._bytes = 0

    def begin(self) -> None:
        """Count the request as one whose body arrives."""
        self._receiving = 1
        self._middleware.receive(1, 0)

    async def take(self) -> None:
        """Count the request as inside, once.

        Raises:
            RequestError: 503 if there is no space.
        """
        if self._entering is None:
            self._entering = asyncio.ensure_future(self._enter())
        await asyncio.shield(self._entering)  # A caller that leaves meanwhile is counted, and not.

    async def _enter(self) -> None:
        await self._middleware.enter()
        self._middleware.receive(-self._receiving, 0)
        self._receiving = 0

    def count(self, size: int) -> None:
        """Count bytes of the body.

        Raises:
            RequestError: 503 if there is no space.
        """
        self._bytes += size
        self._middleware.receive(0, size)

    def give_back(self) -> None:
        """Count the request no more."""
        self._middleware.receive(-self._receiving, -self._bytes)
        self._receiving = self._bytes = 0
        if self._entering is not None:
            self._entering.add_done_callback(self._leave)

    def _leave(self, entered: asyncio.Future[None]) -> None:
        if not entered.cancelled() and entered.exception() is None:
            self._middleware.leave()
