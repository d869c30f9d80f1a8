"""The door: what a connection may cost before the application sees a request.

uvicorn bounds neither the size of a request's head nor the time it takes. :func:`bound_uvicorn`
makes every server of a process use :class:`BoundedProtocol`, which does: an endless header line,
an unfinished head, an idle connection and a reader that stops reading all end. A caller, by
address, has a maximum number of connections; beyond it the connection that waits longest without
a request is closed, so that connections that do nothing keep nobody out.

The rate of a body is bounded by the middleware, which knows when the application waits for it.
"""

import asyncio
import json
import uuid
from collections import Counter
from typing import Any, cast

from starlette.middleware import Middleware
from uvicorn import config as uvicorn_config
from uvicorn.protocols.http import httptools_impl

from infill.pipeline.serving.errors import error_body
from infill.pipeline.serving.http.request_ids import OneRequestId
from infill.pipeline.serving.limits import LimitsConfig

_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
_REASONS[503] = "Service Unavailable"
_PIECE_BYTES = 2**16


class Connections:
    """The open connections of one listening process, and those that wait for a request."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self._of_caller: Counter[str] = Counter()
        self._waiting: dict[BoundedProtocol, None] = {}  # in the order in which they began to wait

    def __len__(self) -> int:
        return self._of_caller.total()

    def enter(self, one: "BoundedProtocol") -> bool:
        """Count a new connection; return False if it has to be refused."""
        self._of_caller[one.caller] += 1
        self.begin_waiting(one)
        crowded = self._of_caller[one.caller] > self.limits.max_connections_per_caller
        if crowded:
            return self._close_oldest(one, one.caller)
        return len(self) <= self.limits.max_connections or self._close_oldest(one, None)

    def leave(self, one: "BoundedProtocol") -> None:
        """Forget a connection that has ended."""
        self._waiting.pop(one, None)
        self._of_caller[one.caller] -= 1
        if not self._of_caller[one.caller]:
            del self._of_caller[one.caller]

    def begin_waiting(self, one: "BoundedProtocol") -> None:
        """Record that a connection has no request from now on."""
        self._waiting.pop(one, None)
        self._waiting[one] = None

    def end_waiting(self, one: "BoundedProtocol") -> None:
        """Record that the head of a request has arrived."""
        self._waiting.pop(one, None)

    def _close_oldest(self, newest: "BoundedProtocol", caller: str | None) -> bool:
        for one in self._waiting:
            if one is not newest and caller in (None, one.caller):
                one.transport.abort()
                one.depart()
                return True
        return False


class BoundedProtocol(httptools_impl.HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds of size and time; subclasses name their connections."""

    door: Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.caller = ""
        self._head_bytes = 0
        self._in_head = True
        self._in_body = False
        self._inside = False
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and begin to wait for the first request's head."""
        super().connection_made(transport)
        self.caller = self.client[0] if self.client else ""
        self._inside = True
        self._start_timer(self.door.limits.idle_timeout_s)
        if not self.door.enter(self):
            wait_s = self.door.limits.retry_after_s
            self._refuse(503, "busy", "too many connections are open; try again", wait_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.depart()
        super().connection_lost(exc)

    def depart(self) -> None:
        """End all waiting; safe to call twice."""
        self._stop_timers()
        if self._inside:
            self._inside = False
            self.door.leave(self)

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the parser, those of a head only up to the limit."""
        while data and self.parser is not None and not self.transport.is_closing():
            size = _PIECE_BYTES
            if self._in_head:
                if not self._head_bytes:
                    self._start_timer(self.door.limits.header_timeout_s)
                size = min(size, self.door.limits.max_header_bytes - self._head_bytes)
                if size <= 0:
                    most = f"{self.door.limits.max_header_bytes:,}"
                    self._refuse(431, "too_large", f"the head has more than {most} bytes")
                    return
            piece, data = data[:size], data[size:]
            self._head_bytes += len(piece) if self._in_head else 0
            super().data_received(piece)

    def on_headers_complete(self) -> None:
        """End the wait for a head."""
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        self._stop_timer()
        self.door.end_waiting(self)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next head."""
        super().on_message_complete()
        self._in_head, self._in_body = True, False
        if self.cycle.response_complete:
            self._stop_timer()

    def on_response_complete(self) -> None:
        """Bound the rest of a body that nobody reads; wait for the next request."""
        super().on_response_complete()
        if not self._inside or self.transport.is_closing() or self.pipeline:
            return
        self.door.begin_waiting(self)
        if self._in_body:
            self._start_timer(self.door.limits.header_timeout_s)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection to uvicorn's protocol of websockets."""
        self.depart()
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        """Give a slow reader time."""
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Continue after a slow reader."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the documented shape."""
        self._refuse(400, "bad_request", msg)

    def _watch_reader(self, left: int) -> None:
        """End the connection if its reader takes nothing for the idle time."""

        def look() -> None:
            now = self.transport.get_write_buffer_size()
            if now >= left:
                self.transport.abort()
            else:
                self._watch_reader(now)

        self._write_timer = self.loop.call_later(self.door.limits.idle_timeout_s, look)

    @property
    def _busy(self) -> bool:
        """Whether a request has not been answered to its end."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_timers(self) -> None:
        self._stop_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def _too_slow(self) -> None:
        if self._busy:  # a part of the next request, sent ahead
            self._start_timer(self.door.limits.header_timeout_s)
        elif self._in_head and self._head_bytes:
            seconds = f"{self.door.limits.header_timeout_s:g}"
            self._refuse(408, "slow_request", f"the head did not arrive within {seconds} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str, retry_after_s: int = 0) -> None:
        """Write an error response by hand and close."""
        if self.transport.is_closing():
            return
        self._stop_timers()
        if self._busy:
            if self.pipeline or not self._in_body or self.cycle.response_started:
                self.transport.abort()  # A response is on its way: nothing may be written into it.
                return
            self.cycle.disconnected = True  # The body is not HTTP; its request ends.
            self.cycle.message_event.set()
        request_id = uuid.uuid4().hex
        body = json.dumps(error_body(code, message, request_id)).encode()
        lines = [
            f"HTTP/1.1 {status} {_REASONS[status]}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            *([f"retry-after: {retry_after_s}"] if retry_after_s else ()),
            "connection: close",
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()


class ResponseOfEveryVersion(httptools_impl.RequestResponseCycle):
    """uvicorn's response, without what HTTP/1.0 does not know (RFC 9112, Sec. 6.1).

    A response of unknown length to HTTP/1.0 ends with its connection instead of being sent in
    chunks, and 100 Continue is not sent.
    """

    def __init__(self, scope: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(scope, *args, **kwargs)
        self._is_old = scope["http_version"] == "1.0"
        self._ends_with_connection = False
        if self._is_old:
            self.waiting_for_100_continue = False

    async def send(self, message: Any) -> None:
        """Send a part of the response."""
        if self._is_old and message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            if b"content-length" not in names:
                self._ends_with_connection, self.chunked_encoding = True, False
        elif self._ends_with_connection:  # uvicorn holds a part to the length that was announced.
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


def bounded_protocol(limits: LimitsConfig) -> type[BoundedProtocol]:
    """Return a protocol whose connections are counted together."""
    httptools_impl.RequestResponseCycle = ResponseOfEveryVersion  # type: ignore[misc]
    return cast(
        type[BoundedProtocol],
        type("BoundedProtocol", (BoundedProtocol,), {"door": Connections(limits)}),
    )


def bound_uvicorn(limits: LimitsConfig) -> None:
    """Make every uvicorn server that this process starts from now on use these limits."""
    protocols = cast(dict[str, Any], uvicorn_config.HTTP_PROTOCOLS)
    protocols["auto"] = bounded_protocol(limits)


def bound_serve() -> list[Middleware]:
    """Bound the server of a process of Ray Serve; called by Serve, in proxies and ingresses.

    An ingress has set the limits of its configuration already. A proxy has the default limits.

    Returns:
        The middleware in front of Serve's own.
    """
    if isinstance(uvicorn_config.HTTP_PROTOCOLS["auto"], str):
        bound_uvicorn(LimitsConfig())
    return [Middleware(OneRequestId)]
