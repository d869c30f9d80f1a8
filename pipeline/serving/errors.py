"""Error responses of the endpoint: one JSON shape, with a code for programs.

{"error": {"code": "too_large", "message": "...", "request_id": "..."}}
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.exceptions import HTTPException

from infill.pipeline.errors import ImageCode, ImageError

CODES = {
    "bad_request": "A field is missing, or has an invalid value.",
    "damaged_image": "The file starts like an image but cannot be decoded to its end.",
    "different_sizes": "Image and mask have different sizes.",
    "empty_mask": "The mask marks no pixel as hole, so there is nothing to fill.",
    "full_mask": "The mask marks every pixel as hole, so there is nothing to fill it from.",
    "unknown_model": "No model of this name or version is served.",
    "unknown_route": "There is nothing under this path, or not for this method.",
    "unknown_job": "The caller has no job, or result of a job, of this name.",
    "job_unfinished": "The job has not ended, so it cannot be deleted.",
    "too_many_jobs": "The caller has too many unfinished jobs; try again after Retry-After.",
    "key_reused": "The Idempotency-Key has created the job of another request.",
    "forbidden": "The API key, or the service's settings, do not allow this.",
    "unauthorized": "The service needs an API key, and the request has none or an unknown one.",
    "rate_limited": "The API key asks for too many images; try again after Retry-After.",
    "not_acceptable": "No form that the Accept header names is made here, or can store the image.",
    "unsupported_body": "The body is neither a form nor JSON.",
    "slow_request": "The body did not arrive in time.",
    "too_large": "The body has more bytes than are accepted.",
    "too_many_pixels": "The image has more pixels than are accepted.",
    "unsupported_image": "The file is of a kind that is not accepted.",
    "busy": "More requests are waiting than the service takes; try again after Retry-After.",
    "not_ready": "No model is loaded, or none answers in time; try again after Retry-After.",
    "internal": "A defect of the service; the request id helps to find it in the logs.",
}
"""Every error code of a response."""


class RequestError(HTTPException):
    """An error response.

    Args:
        status: the HTTP status.
        code: one of :data:`CODES`.
        message: a sentence for the user of the client.
        retry_after_s: seconds until a retry makes sense; None if it never does.
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after_s: int | None = None
    ) -> None:
        headers = None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        super().__init__(status_code=status, detail=message, headers=headers)
        self.code = code
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["RequestError"], tuple[Any, ...]]:
        """Keep all arguments when pickled."""
        return RequestError, (self.status_code, self.code, self.detail, self.retry_after_s)


def shortened(text: str) -> str:
    """Return a caller's text for a message: 100 characters at most."""
    return text if len(text) <= _LONGEST_ECHO else text[: _LONGEST_ECHO - 1] + "…"


_LONGEST_ECHO = 100
_STATUS_OF: dict[ImageCode, int] = {
    "too_many_pixels": 413,
    "unsupported_image": 415,
    "not_acceptable": 406,
}
"""HTTP status of image errors; all others have 400."""


@contextmanager
def image_errors_refused() -> Iterator[None]:
    """Turn the error of an unacceptable image into an error response."""
    try:
        yield
    except ImageError as error:
        raise RequestError(_STATUS_OF.get(error.code, 400), error.code, str(error)) from error


def error_body(code: str, message: str, request_id: str) -> dict[str, dict[str, str]]:
    """Return the documented JSON value of an error."""
    return {"error": {"code": code, "message": message, "request_id": request_id}}
