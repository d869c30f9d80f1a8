"""Repeated requests: one ``Idempotency-Key`` of a caller creates one job."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infill.pipeline.serving.errors import RequestError

HEADER = "Idempotency-Key"
_MAX_CHARACTERS = 255


@dataclass(frozen=True)
class IdempotentRequest:
    """A request that its caller may repeat."""

    key: str
    """The header's value."""
    digest: str
    """SHA-256 of what the request contains; empty if it is not known yet."""


class RequestDigest:
    """The digest of a request, built while its parts arrive.

    It is of the values, not of the bytes: clients choose a new boundary of a form, or another
    order of JSON's fields, each time they send the same request.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, value: Any) -> None:
        """Add a value of JSON, or the bytes of a file."""
        data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
        self._hash.update(hashlib.sha256(data).digest())

    def value(self) -> str:
        """Return the digest of all that was added."""
        return self._hash.hexdigest()


def idempotency_key(values: Sequence[str]) -> str:
    """Return a request's key, "" without one.

    Args:
        values: the values of all its ``Idempotency-Key`` headers.

    Raises:
        RequestError: 400 if there are several, or one is empty, too long or not printable ASCII.
    """
    if not values:
        return ""
    key = values[0]
    if len(values) > 1 or not 0 < len(key) <= _MAX_CHARACTERS or not _is_printable(key):
        raise RequestError(
            400,
            "bad_request",
            f"header {HEADER}: send one, of 1 to {_MAX_CHARACTERS} printable ASCII characters, "
            "such as a new UUID for each job",
        )
    return key


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()
