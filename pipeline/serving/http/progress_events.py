"""Events of progress by Socket.IO's long polling, for clients of any ingress of a node.

Each poll of a client may reach another ingress than the one that inpaints for it. So sessions and
events are in a small SQLite file that all share; python-socketio's own server, whose packets these
are, keeps them in one process. There is no websocket: it would pass the middleware, which asks for
keys.
"""

import asyncio
import contextlib
import fcntl
import logging
import sqlite3
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from engineio import packet as engine
from engineio.payload import Payload
from fastapi import FastAPI, Request, Response
from socketio import packet as messages

from infill.pipeline.serving.errors import RequestError

PATH = "/socket.io/"
MAX_BODY_BYTES = 10_000
_LOG = logging.getLogger("infill.serving")
_Result = TypeVar("_Result")
_FORGOTTEN_S = 60.0
"""Seconds after which an event, or a session whose client has not polled, is deleted."""
_MAX_SESSIONS = 1000
_LOOK_EVERY_S = 0.2
_LOCKED_S = 2.0
_TABLES = """
create table if not exists events (id integer primary key autoincrement, packet text, at_s real);
create table if not exists sessions
    (sid text primary key, pending text, joined integer, last integer, seen_s real);
"""
_NEWEST = "coalesce((select max(id) from events), 0)"


class ProgressEvents:
    """The events and sessions of a process, or of all that have the same folder.

    Args:
        folder: a folder of the node; None keeps them for this process alone.
        longest_poll_s: seconds after which a poll without an event is answered.
    """

    def __init__(self, folder: Path | None, longest_poll_s: float) -> None:
        self._longest_poll_s = longest_poll_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="events")
        with contextlib.ExitStack() as stack:
            if folder is not None:
                lock = stack.enter_context((folder / "events.lock").open("a"))
                fcntl.flock(lock, fcntl.LOCK_EX)  # One makes the tables.
            self._db = sqlite3.connect(
                ":memory:" if folder is None else str(folder / "events.sqlite"),
                timeout=_LOCKED_S,
                isolation_level=None,
                check_same_thread=False,
            )
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = off")
            self._db.executescript(_TABLES)
        weakref.finalize(self, self._db.close)

    async def emit(self, name: str, values: Any = None) -> None:
        """Send an event to every client; one that cannot be kept is logged and lost."""
        data = [name] if values is None else [name, values]
        packet = _message(messages.EVENT, data)
        try:
            await self._do(_add_event, packet)
        except RequestError:
            _LOG.error("an event of progress is lost", extra={"event": name})

    async def open(self) -> str:
        """Open a session, and return the packet that says so."""
        sid = uuid.uuid4().hex
        await self._do(_open, sid)
        values = {
            "sid": sid,
            "upgrades": [],
            "pingInterval": round(1000 * self._longest_poll_s),
            "pingTimeout": round(1000 * _FORGOTTEN_S),
            "maxPayload": MAX_BODY_BYTES,
        }
        return str(engine.Packet(engine.OPEN, values).encode())

    async def take_packets(self, sid: str, text: str) -> None:
        """Take what a client sends: that it joins or leaves; events of its own mean nothing here.

        Raises:
            RequestError: 400 for an unknown session, or packets that are malformed.
        """
        try:
            packets = Payload(encoded_payload=text).packets
            requests = [_request_of(packet) for packet in packets]
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise RequestError(
                400, "bad_request", "the body does not hold packets of Engine.IO"
            ) from error
        if not await self._do(_take, sid, requests):
            raise _unknown()

    async def poll(self, sid: str) -> str:
        """Return the packets for a client, or a ping if there are none for a while.

        Raises:
            RequestError: 400 for an unknown session.
        """
        deadline = time.monotonic() + self._longest_poll_s
        while True:
            found: Sequence[str] | None = await self._do(_give, sid)
            if found is None:
                raise _unknown()
            if found:
                return "\x1e".join(found)
            if time.monotonic() >= deadline:
                return str(engine.Packet(engine.PING).encode())
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _do(self, act: Callable[..., _Result], *values: Any) -> _Result:
        """Do something in one transaction, in the thread of the file."""

        def transaction() -> _Result:
            self._db.execute("begin immediate")
            with self._db:
                return act(self._db, *values)

        try:
            return await asyncio.wrap_future(self._thread.submit(transaction))
        except sqlite3.Error as error:
            raise RequestError(503, "busy", f"events cannot be kept: {error}", 1) from error


def _message(kind: int, data: Any, namespace: str = "/") -> str:
    inner = messages.Packet(kind, data=data, namespace=namespace).encode()
    return str(engine.Packet(engine.MESSAGE, inner).encode())


def _request_of(packet: engine.Packet) -> tuple[str, str]:
    """Return what a client's packet wants, "join", "leave" or "", and its namespace."""
    if packet.packet_type == engine.CLOSE:
        return "leave", "/"
    if packet.packet_type != engine.MESSAGE:
        return "", "/"
    inner = messages.Packet(encoded_packet=packet.data)
    kinds = {messages.CONNECT: "join", messages.DISCONNECT: "leave"}
    return kinds.get(inner.packet_type, ""), str(inner.namespace or "/")[:100]


def _unknown() -> RequestError:
    return RequestError(400, "bad_request", "no session of this sid: connect again")


def _add_event(db: sqlite3.Connection, packet: str) -> None:
    now = time.time()
    db.execute("delete from events where at_s < ?", (now - _FORGOTTEN_S,))
    db.execute("insert into events (packet, at_s) values (?, ?)", (packet, now))


def _open(db: sqlite3.Connection, sid: str) -> None:
    now = time.time()
    db.execute("delete from sessions where seen_s < ?", (now - _FORGOTTEN_S,))
    oldest = "select sid from sessions order by seen_s desc limit -1 offset ?"
    db.execute(f"delete from sessions where sid in ({oldest})", (_MAX_SESSIONS - 1,))
    db.execute(f"insert into sessions values (?, '', 0, {_NEWEST}, ?)", (sid, now))


def _take(db: sqlite3.Connection, sid: str, requests: Sequence[tuple[str, str]]) -> bool:
    """Carry out what a client wants; return whether it has a session."""
    if not db.execute("select 1 from sessions where sid = ?", (sid,)).fetchone():
        return False
    for kind, namespace in requests:
        if kind == "join" and namespace == "/":
            answer = _message(messages.CONNECT, {"sid": uuid.uuid4().hex})
            values = f"pending = ?, joined = 1, last = {_NEWEST}"
            db.execute(f"update sessions set {values} where sid = ?", (answer, sid))
        elif kind == "join":
            why = {"message": "there is one namespace: /"}
            answer = _message(messages.CONNECT_ERROR, why, namespace)
            db.execute("update sessions set pending = ? where sid = ?", (answer, sid))
        elif kind == "leave":
            db.execute("delete from sessions where sid = ?", (sid,))
    return True


def _give(db: sqlite3.Connection, sid: str) -> list[str] | None:
    """Return the packets for a client since its last poll; None without a session."""
    query = "select pending, joined, last from sessions where sid = ?"
    row: tuple[str, int, int] | None = db.execute(query, (sid,)).fetchone()
    if row is None:
        return None
    pending, joined, last = row
    query = "select id, packet from events where id > ? order by id"
    events = db.execute(query, (last,)).fetchall() if joined else []
    values = ("", events[-1][0] if events else last, time.time(), sid)
    db.execute("update sessions set pending = ?, last = ?, seen_s = ? where sid = ?", values)
    return [*([pending] if pending else ()), *(packet for _, packet in events)]


def add_progress_routes(app: FastAPI, events: ProgressEvents) -> None:
    """Add the routes that Socket.IO's clients poll."""
    headers = {"Cache-Control": "no-store"}

    def text(packets: str) -> Response:
        return Response(packets, media_type="text/plain", headers=headers)

    @app.get(PATH, include_in_schema=False)
    async def poll(request: Request) -> Response:
        _require_polling(request)
        await request.body()  # From now on a client that leaves ends its poll.
        sid = request.query_params.get("sid")
        return text(await events.open() if sid is None else await events.poll(sid))

    @app.post(PATH, include_in_schema=False)
    async def send(request: Request) -> Response:
        _require_polling(request)
        body = await request.body()
        if len(body) > MAX_BODY_BYTES:
            most = f"{MAX_BODY_BYTES:,}"
            raise RequestError(413, "too_large", f"the packets have more than {most} bytes")
        sid = request.query_params.get("sid", "")
        await events.take_packets(sid, body.decode(errors="replace"))
        return text("OK")


def _require_polling(request: Request) -> None:
    asked = request.query_params
    if asked.get("EIO") != "4" or asked.get("transport") != "polling":
        raise RequestError(
            400, "bad_request", "this path is for Socket.IO by polling: EIO=4 and transport=polling"
        )
