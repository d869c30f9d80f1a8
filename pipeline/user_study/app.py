"""The voting page, over HTTP.

GET  /                 the page
GET  /api/questions    what a voter has not answered yet: ids and pictures from left to right
POST /api/votes        an answer
GET  /pictures/NAME    a picture of the study

Responses never name a method, an evaluation, or the votes of others.
"""

import json
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.user_study.questions import Study
from infill.pipeline.user_study.votes import VOTER, Vote, answered, save_vote, voters

MOST_BODY_BYTES = 4096
MOST_VOTERS = 1000
"""Maximum number of voters: anyone who can reach the page can invent voters."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


def make_app(study: Study, questions_per_voter: int) -> Starlette:
    """Return the voting application of a study.

    Args:
        study: the study.
        questions_per_voter: number of questions per person.
    """
    page = files("infill.pipeline.user_study").joinpath("voting.html").read_text()
    pictures = {name for question in study.questions for name in question.pictures.values()}

    async def show_page(_: Request) -> Response:
        return HTMLResponse(page, headers=HEADERS)

    async def ask(request: Request) -> Response:
        voter = request.query_params.get("voter", "")
        if not VOTER.fullmatch(voter):
            return _refused(400, "voter must be 8 to 40 lower-case letters and digits")
        done = await run_in_threadpool(answered, study, voter)
        asked = study.asked(voter, questions_per_voter)
        left = [
            {"id": question.id, "pictures": study.shown(voter, question)}
            for question in asked
            if question.id not in done
        ]
        values = {"kind": study.kind, "asked": len(asked), "left": left}
        return JSONResponse(values, headers=HEADERS)

    async def take(request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return _refused(413, f"a vote has at most {MOST_BODY_BYTES} bytes")
        vote = _read_vote(body)
        if isinstance(vote, str):
            return _refused(400, vote)
        if not await run_in_threadpool(_has_room, study, vote.voter):
            return _refused(503, "this study has reached its maximum number of voters")
        try:
            await run_in_threadpool(save_vote, study, vote)
        except UserError as error:
            return _refused(400, str(error))
        return JSONResponse({"kept": vote.question}, status_code=201, headers=HEADERS)

    async def show_picture(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in pictures:
            return _refused(404, "there is no such image")
        data = await run_in_threadpool(storage.read, study.picture(name))
        return Response(data, media_type="image/png", headers={"Cache-Control": "max-age=86400"})

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/api/questions", ask),
            Route("/api/votes", take, methods=["POST"]),
            Route("/pictures/{name}", show_picture),
        ]
    )


def _has_room(study: Study, voter: str) -> bool:
    known = voters(study)
    return voter in known or len(known) < MOST_VOTERS


async def _body(request: Request) -> bytes | None:
    """Read a request's body, or None as soon as it is too long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            return None
    return body


def _read_vote(body: bytes) -> Vote | str:
    """Return the vote in a body, or the error."""
    try:
        values: Any = json.loads(body)
    except ValueError:
        return "a vote is a JSON object"
    kinds = {"voter": str, "question": str, "choice": str, "took_ms": int}
    if not isinstance(values, dict) or set(values) != set(kinds):
        return f"a vote has the fields {', '.join(kinds)}"
    for name, kind in kinds.items():
        if type(values[name]) is not kind:
            return f"{name} must be {'text' if kind is str else 'a whole number'}"
    if not 0 <= values["took_ms"] < 2**31:
        return "took_ms must be milliseconds"
    return Vote(**values)


def _refused(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers=HEADERS)
