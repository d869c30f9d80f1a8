"""Responses: the image with headers, or JSON."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from infill.pipeline.images import MEDIA_TYPES
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http.base64_pieces import encode_base64
from infill.pipeline.serving.http.inpaint_service import InpaintResult
from infill.pipeline.serving.http.negotiation import JSON, wants_json
from infill.pipeline.serving.replica.replica import ServedModel

LINES = "application/x-ndjson"


def public(model: ServedModel) -> dict[str, str]:
    """Return the public facts on a model, without its location."""
    return {
        "name": model.name,
        "version": model.version,
        "reference": _without_path(model),
        "digest": model.digest,
    }


def _without_path(model: ServedModel) -> str:
    """Return the reference that requests may use, but no path of the service's machine."""
    named = model.reference.partition("@")[0] == model.name
    return model.reference if named else f"{model.name}@{model.version}"


def headers_of(answer: InpaintResult) -> Mapping[str, str]:
    """Return the headers of an image response."""
    return {"Content-Type": MEDIA_TYPES[answer.output_format], **facts_of(answer)}


def facts_of(*answers: InpaintResult) -> Mapping[str, str]:
    """Return the headers of a response of any kind; those that differ among answers name all."""
    each = [
        {
            "X-Infill-Model": answer.model.label,
            "X-Infill-Hole-Ratio": f"{answer.hole_ratio:.6f}",
            "X-Infill-Mask-Form": answer.mask_form,
            "X-Infill-Canvas": answer.layout.kind,
            "X-Infill-Scale": f"{answer.layout.scale:.4f}",
        }
        for answer in answers
    ]
    return {name: ", ".join(dict.fromkeys(facts[name] for facts in each)) for name in each[0]}


def json_of(
    answer: InpaintResult, request_id: str, label: Mapping[str, Any] | None = None
) -> bytes:
    """Return a response as JSON: ``image`` for one sample, ``images`` for several.

    It takes a while for large files: call it in a thread.

    Args:
        answer: the result.
        request_id: the request's.
        label: values that come first.
    """
    facts = {
        "output_format": answer.output_format,
        "model": public(answer.model),
        "hole_ratio": answer.hole_ratio,
        "mask_form": answer.mask_form,
        "scale": round(answer.layout.scale, 4),
        "canvas": {
            "kind": answer.layout.kind,
            "count": len(answer.layout.sizes),
            "height_px": answer.layout.sizes[0][0],
            "width_px": answer.layout.sizes[0][1],
        },
        "timings": answer.timings,
        "request_id": request_id,
    }
    files = json_texts(answer.files)
    name, value = ("image", files[0]) if len(files) == 1 else ("images", _listed(files))
    first = json.dumps(dict(label or {}))[:-1] + (", " if label else "")
    return b"".join([first.encode(), b'"%b": ' % name.encode(), value, b", ", _inner(facts), b"}"])


def json_texts(files: Sequence[bytes]) -> list[bytes]:
    """Return files as texts of JSON, in base64, which needs no escapes."""
    return [b'"%b"' % encode_base64(file) for file in files]


def _listed(texts: Sequence[bytes]) -> bytes:
    return b"[%b]" % b", ".join(texts)


def _inner(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values)[1:-1].encode()


async def respond(answer: InpaintResult, accept: str, request_id: str) -> Response:
    """Return the response in the form of the Accept header.

    Raises:
        RequestError: 400 if several samples are requested as one image file.
    """
    if wants_json(accept):
        body = await asyncio.to_thread(json_of, answer, request_id)
        return Response(body, media_type=JSON, headers=dict(facts_of(answer)))
    if len(answer.files) > 1:
        raise RequestError(400, "bad_request", "several samples need `Accept: application/json`")
    return Response(answer.files[0], headers=dict(headers_of(answer)))


class LineStream(Response):
    """Lines that are sent one by one, while the request's body may still be arriving.

    Starlette's own streaming response listens for a disconnect meanwhile, and so would consume
    parts of the body.
    """

    media_type = LINES

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send each line in a message of its own."""
        del scope, receive
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for line in self._lines:
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
