"""The endpoint of the S3 service behind s3:// addresses, and the first contact with it."""

import os
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from urllib.parse import urlsplit

from infill.pipeline.errors import UserError

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables that name the service, the first that is set; AWS if none is."""
CHECKSUM_SETTINGS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
CONTACT_PAUSES_S = (0.5, 1.0, 2.0)
"""Pauses between the attempts of the first contact: a wrong address is reported within seconds."""
CONTACT_TIMEOUT_S = 5.0

_first_contact = False


@contextmanager
def first_contact() -> Iterator[None]:
    """Check within seconds that the service answers, at the first contact in this block.

    A driver runs its job in such a block, so that a wrong address is reported at once. Everywhere
    else a service that does not answer is waited for, as it may be away for a moment.
    """
    global _first_contact
    before, _first_contact = _first_contact, True
    try:
        yield
    finally:
        _first_contact = before


def require_first_answer() -> None:
    """Check that the service answers, if this is the first contact.

    Raises:
        UserError: if nobody answers at the endpoint.
    """
    variable, address = endpoint()
    if _first_contact and address:
        _require_answer(variable, address)


def endpoint() -> tuple[str, str]:
    """Return the variable that names the service, and its address; both empty for AWS."""
    return next(((name, os.environ[name]) for name in ENDPOINTS if os.environ.get(name)), ("", ""))


@lru_cache(maxsize=16)
def _require_answer(variable: str, address: str) -> None:
    """Refuse an endpoint whose host is unknown, or where nobody listens; asked once per process.

    Raises:
        UserError: naming the variable and the address.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"{variable}={address} is not an address of a store; give one such as "
            "http://minio:9000 (--s3.endpoint of make_shards and verify_shards sets it as well)"
        )
    proxies = urllib.request.getproxies()
    if parts.scheme in proxies and not urllib.request.proxy_bypass(parts.hostname):
        return
    where = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    for pause_s in (*CONTACT_PAUSES_S, None):
        try:
            socket.create_connection(where, CONTACT_TIMEOUT_S).close()
            return
        except OSError as error:
            if pause_s is None or isinstance(error, TimeoutError):
                raise UserError(_unanswered(variable, address, error)) from error
        time.sleep(pause_s)


def _unanswered(variable: str, address: str, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        what = "its host name is not known here"
    elif isinstance(error, ConnectionRefusedError):
        what = "its host refuses the connection: nobody listens at this port"
    else:
        what = str(error.strerror or error)
    return (
        f"no object store answers at {variable}={address}: {what}; correct the variable (or "
        "--s3.endpoint, where a job has it), or start the store"
    )


def use_plain_checksums() -> None:
    """Send checksums only where S3 requires them, if the store is not AWS and nobody says more.

    Many stores refuse or mistake the checksum trailers that newer clients add to every upload.
    """
    if endpoint()[1]:
        for name in CHECKSUM_SETTINGS:
            os.environ.setdefault(name, "when_required")
