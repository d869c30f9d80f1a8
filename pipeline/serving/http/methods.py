"""HEAD and OPTIONS for every route, its path with a slash more, and the methods it allows."""

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def allowed_methods(scope: Scope) -> list[str]:
    """Return the methods of the application's routes for a request's path; none: 404."""
    app: Starlette = scope["app"]
    found: set[str] = set()
    for route in app.router.routes:
        methods = getattr(route, "methods", None) or ()
        if route.matches(scope)[0] is not Match.NONE:
            found.update(methods)
    if "GET" in found:
        found.add("HEAD")
    return sorted({*found, "OPTIONS"}) if found else []


class HeadAndOptions:
    """ASGI middleware: HEAD is GET without its body, OPTIONS names the allowed methods."""

    def __init__(self, app: ASGIApp, within: Starlette) -> None:
        self._app, self._within = app, within

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        method = scope.get("method", "")
        if scope["type"] != "http" or method not in ("HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        allowed = allowed_methods({**scope, "app": self._within, "method": "GET"})
        if method == "OPTIONS" and allowed:
            answer = Response(status_code=204, headers={"Allow": ", ".join(allowed)})
            await answer(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        if method == "OPTIONS":
            await self._app(scope, receive, send)
            return
        scope["method"] = "GET"
        await self._app(scope, receive, without_body)


class PlainPaths:
    """ASGI middleware: a route's path with slashes before or behind it is that path.

    A redirect would send a body twice, and name the service as it is seen behind a proxy.
    """

    def __init__(self, app: ASGIApp, within: Starlette) -> None:
        self._app, self._within = app, within

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with the route's own path."""
        if scope["type"] == "http":
            plain = "/" + scope["path"].strip("/")
            if plain != scope["path"]:
                asked = {**scope, "app": self._within, "path": plain, "method": "GET"}
                if allowed_methods(asked):
                    scope = {**scope, "path": plain}
        await self._app(scope, receive, send)
