"""Forms and queries: read whole, each name once, and nothing that is given is left out."""

from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import aclosing, asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from infill.pipeline.serving.errors import RequestError, shortened

_FORM = "multipart/form-data"
_MAX_PARTS = 32


class _Parser(MultiPartParser):
    """Starlette's parser, which takes a form that was cut for a whole one."""

    ended = False

    def on_end(self) -> None:
        """Record that the last boundary has arrived."""
        self.ended = True


@asynccontextmanager
async def read_form(
    request: Request, max_files: int = _MAX_PARTS, max_fields: int = _MAX_PARTS
) -> AsyncIterator[FormData]:
    """Read a form to its last boundary, and delete its files afterwards.

    Raises:
        RequestError: 400 for a form that is malformed, is cut, or has too many parts.
    """
    async with aclosing(request.stream()) as stream:
        parser = _Parser(request.headers, stream, max_files=max_files, max_fields=max_fields)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            why = f"the form cannot be read: {error.message}"
            raise RequestError(400, "bad_request", why) from error
    try:
        if not parser.ended:
            raise RequestError(
                400, "bad_request", "the form ends before its last boundary: send all of it"
            )
        yield form
    finally:
        await form.close()


def texts_of(form: FormData, files: Collection[str]) -> dict[str, str]:
    """Return the fields of a form that are not files.

    Args:
        form: the form.
        files: names of its files, which are left out.

    Raises:
        RequestError: 400 for a field that is given twice, or is a file.
    """
    texts = [(name, part) for name, part in form.multi_items() if name not in files]
    refuse_repeated(name for name, _ in texts)
    for name, part in texts:
        if isinstance(part, UploadFile):
            raise RequestError(
                400,
                "bad_request",
                f"field {shortened(name)!r} is a file: files are {', '.join(files)}, and all "
                "other fields are text",
            )
    return {name: str(part) for name, part in texts}


def query_of(request: Request, *names: str) -> dict[str, str]:
    """Return the parameters of a request's query.

    Args:
        request: the request.
        names: the parameters that its route reads.

    Raises:
        RequestError: 400 for any other parameter, or one that is given twice.
    """
    refuse_repeated(name for name, _ in request.query_params.multi_items())
    for name in request.query_params:
        if name not in names:
            read = f"it reads {', '.join(names)}" if names else "options are fields of the body"
            raise RequestError(
                400, "bad_request", f"this path reads no {shortened(name)!r} in its query: {read}"
            )
    return dict(request.query_params)


def require_form(request: Request, *others: str) -> None:
    """Refuse a body that is not a form.

    Args:
        request: the request.
        others: further types of bodies that the route reads, for the message.

    Raises:
        RequestError: 415, naming the types that are read.
    """
    kind = content_type(request)
    if kind != _FORM:
        raise RequestError(
            415,
            "unsupported_body",
            f"the body is {shortened(kind) or 'of no type'}: send {' or '.join((_FORM, *others))}",
        )


def refuse_repeated(names: Iterable[str]) -> None:
    """Refuse fields that are given twice: readers differ in which of them counts.

    Raises:
        RequestError: 400, naming the first such field.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise RequestError(400, "bad_request", f"field {shortened(name)!r} is given twice")
        seen.add(name)


def content_type(request: Request) -> str:
    """Return the body's media type without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
