"""Many pairs in one request: JSON lines or a form in, one JSON line per result out.

Each result is sent as soon as it is ready, with the ``id`` of its pair. An invalid pair gets its
own error line.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from infill.pipeline.serving.errors import RequestError, error_body, shortened
from infill.pipeline.serving.http.forms import content_type, read_form, texts_of
from infill.pipeline.serving.http.inpaint_service import InpaintResult, InpaintService
from infill.pipeline.serving.http.responses import LINES, json_of
from infill.pipeline.serving.http.schemas import (
    InpaintRequest,
    json_object,
    parse_request,
    request_of,
)

MAX_FORM_PAIRS = 256
_LONGEST_ID = 100
log = logging.getLogger("infill.serving")


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """One pair of a batch, or its error."""

    line: int
    """Its position, from 0: unique in a batch."""
    id: str | int | None
    request: InpaintRequest | RequestError


async def read_many(request: Request, max_line_bytes: int) -> AsyncIterator[Numbered]:
    """Read pairs as they arrive, from lines of JSON or from a form.

    Raises:
        RequestError: if the body as a whole cannot be read.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        files, fields = 2 * MAX_FORM_PAIRS, MAX_FORM_PAIRS + 16
        async with read_form(request, files, fields) as form:
            pairs = await _form_pairs(form)
        for numbered in distinct(pairs):
            yield numbered
    elif kind == LINES:
        number, taken = 0, set[str]()
        async for line in _lines(request, max_line_bytes):
            yield _with_own_id(await asyncio.to_thread(_from_line, line, number), taken)
            number += 1
    else:
        raise RequestError(
            415,
            "unsupported_body",
            f"the body is {shortened(kind) or 'of no type'}: send {LINES} or a form",
        )


async def _lines(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """Split the body into lines, with at most one line in memory."""
    parts: list[bytes] = []  # Joined once a line ends: joining each time would be quadratic.
    size, rate = 0, request.state.body_rate
    async for chunk in request.stream():
        rate.between_parts = False
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line = b"".join([*parts, end])
            parts, size = [], 0
            if line.strip():
                yield line
        parts.append(rest)
        size += len(rest)
        rate.between_parts = bool(ends) and not rest.strip()
        if size > max_bytes:
            raise RequestError(413, "too_large", f"a line has more than {max_bytes:,} bytes")
    if (line := b"".join(parts)).strip():
        yield line


async def with_first(
    first: Numbered | None, rest: AsyncIterator[Numbered]
) -> AsyncIterator[Numbered]:
    """Yield a pair that was read already, and then the others."""
    if first is not None:
        yield first
    async for numbered in rest:
        yield numbered


def distinct(pairs: Iterable[Numbered]) -> Iterator[Numbered]:
    """Refuse pairs whose id an earlier one has."""
    taken: set[str] = set()
    return (_with_own_id(pair, taken) for pair in pairs)


def _with_own_id(pair: Numbered, taken: set[str]) -> Numbered:
    """Return a pair whose id no earlier one has, as text; an id that was given twice is refused."""
    if pair.id is None:
        name = str(pair.line)
        while name in taken:
            name = f"line-{name}"
        taken.add(name)
        return replace(pair, id=pair.line if name == str(pair.line) else name)
    if str(pair.id) in taken:
        refusal = RequestError(400, "bad_request", f"id {pair.id!r} stands in an earlier line too")
        return replace(pair, id=None, request=refusal)
    taken.add(str(pair.id))
    return pair


def _from_line(line: bytes, number: int) -> Numbered:
    identity: str | int | None = None
    try:
        values = json_object(line)
        identity = _checked_id(values.pop("id", None))
        pair = request_of(values)
    except RequestError as refusal:
        return Numbered(line=number, id=identity, request=refusal)
    return Numbered(line=number, id=identity, request=pair)


def _checked_id(given: Any) -> str | int | None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
        raise RequestError(400, "bad_request", "field 'id' is neither text nor a whole number")
    if given is not None and len(str(given)) > _LONGEST_ID:
        raise RequestError(400, "bad_request", f"field 'id' has more than {_LONGEST_ID} characters")
    return given


async def _form_pairs(form: FormData) -> list[Numbered]:
    """Pair the form's images and masks in order; its other fields apply to all pairs."""
    images, masks, names = (form.getlist(name) for name in ("image", "mask", "id"))
    if not images or len(masks) not in (0, len(images)) or len(names) not in (0, len(images)):
        raise RequestError(
            400,
            "bad_request",
            f"{len(images)} images, {len(masks)} masks and {len(names)} ids do not make pairs",
        )
    common = texts_of(form, ("image", "mask", "id"))
    pairs = []
    for number, image in enumerate(images):
        values: dict[str, Any] = {**common, "image": await _file(image)}
        if masks:
            values["mask"] = await _file(masks[number])
        identity = None
        try:
            identity = _checked_id(str(names[number]) if names else None)
            pairs.append(Numbered(line=number, id=identity, request=parse_request(values)))
        except RequestError as refusal:
            pairs.append(Numbered(line=number, id=identity, request=refusal))
    return pairs


async def _file(part: UploadFile | str) -> bytes | str:
    return await part.read() if isinstance(part, UploadFile) else part


async def answer_many(
    service: InpaintService, pairs: AsyncIterator[Numbered], accept: str, request_id: str
) -> AsyncIterator[bytes]:
    """Process a few pairs at once and yield each one's line when it is done."""
    limits = service.config.limits

    async def work(numbered: Numbered) -> bytes:
        try:
            if isinstance(numbered.request, RequestError):
                raise numbered.request
            async with asyncio.timeout(limits.request_timeout_s):
                answer = await _answer(service, numbered.request, accept)
        except RequestError as refusal:
            return _line(numbered, error_body(refusal.code, refusal.detail, request_id))
        except TimeoutError:
            late = f"no answer within {limits.request_timeout_s:g} s"
            return _line(numbered, error_body("busy", late, request_id))
        except Exception:  # of this pair alone: the others are answered
            log.exception("defect", extra={"request_id": request_id, "line": numbered.line})
            failed = "the service failed; see its log"
            return _line(numbered, error_body("internal", failed, request_id))
        return await asyncio.to_thread(json_of, answer, request_id, _label(numbered)) + b"\n"

    try:
        async for line in in_order_of_arrival(pairs, work, limits.pairs_at_once):
            yield line
    except RequestError as refusal:  # an error of the whole body: the rest cannot be read
        yield _line(None, error_body(refusal.code, refusal.detail, request_id))


async def _answer(service: InpaintService, one: InpaintRequest, accept: str) -> InpaintResult:
    options = replace(one.fields.options(accept), background=True)
    return await service.inpaint(options, one.image, one.mask)


def _line(numbered: Numbered | None, values: dict[str, Any]) -> bytes:
    return json.dumps({**_label(numbered), **values}).encode() + b"\n"


def _label(numbered: Numbered | None) -> dict[str, Any]:
    return {"id": numbered.id, "line": numbered.line} if numbered else {"id": None}


async def in_order_of_arrival(
    items: AsyncIterator[Numbered], work: Callable[[Numbered], Awaitable[bytes]], at_once: int
) -> AsyncIterator[bytes]:
    """Yield ``await work(item)`` in the order of completion, with few running at once.

    An item is read only when a slot is free (back-pressure), so a fast sender is slowed down and
    not buffered. An error of ``items`` is raised after the results of all earlier items.
    """
    under_way: set[asyncio.Future[bytes]] = set()
    reading: asyncio.Future[Numbered | None] | None = asyncio.ensure_future(_next(items))
    try:
        while reading or under_way:
            waiting: set[asyncio.Future[Any]] = {*under_way, *([reading] if reading else ())}
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in under_way if task in done]:
                under_way.discard(task)
                yield task.result()
            if reading in done and reading is not None:
                if reading.exception() or (item := reading.result()) is None:
                    break
                under_way.add(asyncio.ensure_future(work(item)))
                reading = None
            if reading is None and len(under_way) < at_once:
                reading = asyncio.ensure_future(_next(items))
        for finished in asyncio.as_completed(under_way):
            yield await finished
        if reading is not None:
            reading.result()
    finally:
        for task in {*under_way, *([reading] if reading else ())}:
            task.cancel()


async def _next(items: AsyncIterator[Numbered]) -> Numbered | None:
    return await anext(items, None)
