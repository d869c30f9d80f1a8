"""Webhooks: signed, retried, and only to public addresses unless the service allows others.

A receiver computes HMAC-SHA256 with the shared secret over the header ``X-Infill-Timestamp``, a
point and the body, and compares it with ``X-Infill-Signature`` (``sha256=`` and 64 hexadecimal
digits). An old timestamp shows a repeated message.
"""

import hashlib
import hmac
import ipaddress
import json
import socket
import time
from urllib.parse import SplitResult, urlsplit

import httpx

from infill.pipeline.errors import UserError
from infill.pipeline.serving.jobs.store import Job

TIMEOUT_S = 10.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return the value of ``X-Infill-Signature``."""
    digest = hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


def check_webhook(url: str, private: bool) -> list[str]:
    """Return the addresses of a webhook's host. Blocks while the name is looked up.

    Args:
        url: address of the webhook.
        private: whether private and loopback addresses are allowed.

    Raises:
        UserError: if it is not http(s), has a password, its host is unknown, or one of the host's
            addresses is not public.
    """
    parts = _split(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError("the host of the webhook is unknown") from error
    addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
    for address in addresses:
        if not private and not _is_public(ipaddress.ip_address(address.partition("%")[0])):
            raise UserError("the webhook's host has a private address: give a public one")
    return addresses


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UserError("the webhook is not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("the webhook is not an http or https URL")
    if parts.username or parts.password or parts.fragment:
        raise UserError("the webhook's URL has a user, password or fragment: leave it out")
    return parts


def _is_public(address: Address) -> bool:
    """Return whether an address is public, also where IPv6 wraps one of IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo:
            return False
        if wrapped:
            return _is_public(wrapped)
    return address.is_global and not address.is_multicast


def send_webhook(job: Job, secret: bytes, private: bool) -> bool:
    """Send the state of an ended job once; return whether the receiver accepted it (2xx).

    The connection goes to an address that was checked, whatever the name means a moment later, and
    redirections are not followed.
    """
    try:
        address = check_webhook(job.webhook, private)[0]
    except UserError:
        return False
    body, timestamp = json.dumps(job.public()).encode(), str(int(time.time()))
    parts = _split(job.webhook)
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "X-Infill-Timestamp": timestamp,
        "X-Infill-Signature": signature(secret, timestamp, body),
    }
    url = httpx.URL(job.webhook).copy_with(host=address)
    try:
        with (
            httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client,
            client.stream(
                "POST",
                url,
                content=body,
                headers=headers,
                extensions={"sni_hostname": parts.hostname},
            ) as answer,
        ):
            return answer.is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
