"""One request id: in the headers of a request and of its response, in errors, and in the log."""

import re
import uuid
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Headers = Sequence[tuple[bytes, bytes]]
_NAME = b"x-request-id"
_CLEAN = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_OF_SERVE = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
"""Headers by which a caller would change Serve's own limits."""


def request_id_of(headers: Headers) -> str:
    """Return the caller's request id if it gave one harmless word, else a new one."""
    given = [value for name, value in headers if name.lower() == _NAME]
    if len(given) == 1 and _CLEAN.fullmatch(given[0]):
        return given[0].decode()
    return uuid.uuid4().hex


def with_request_id(headers: Headers, request_id: str) -> list[tuple[bytes, bytes]]:
    """Return headers with this request id and no other."""
    others = [(name, value) for name, value in headers if name.lower() != _NAME]
    return [*others, (_NAME, request_id.encode())]


class OneRequestId:
    """ASGI middleware in front of Ray Serve, which takes ids as they come and adds a second header.

    Serve's own headers for its timeouts and models are not passed on: callers have no use for them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Clean the headers of a request and of its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope["headers"])
        kept = [(name, value) for name, value in scope["headers"] if not _is_of_serve(name)]

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = with_request_id(message.get("headers", ()), request_id)
                message = {**message, "headers": headers}
            await send(message)

        scope = {**scope, "headers": with_request_id(kept, request_id)}
        await self._app(scope, receive, send_once)


def _is_of_serve(name: bytes) -> bool:
    word = name.lower().replace(b"_", b"-")
    return word in _OF_SERVE or word.startswith(b"serve-")
