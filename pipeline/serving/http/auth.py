"""API keys, stored as hashes, each with a rate limit.

A key is 32 random bytes, so its plain SHA-256 does not reveal it; slow password hashes are for
secrets that people choose. The file holds one JSON object per line:

    {"name": "alice", "sha256": "...", "per_minute": 600}
"""

import hashlib
import hmac
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.serving.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """The API key of one client."""

    name: str
    """Name of the client, for logs."""
    sha256: str
    """SHA-256 of the key."""
    per_minute: float = 600.0
    """Maximum number of requests per minute, evenly spread or at once."""

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or self.per_minute <= 0:
            raise ValueError(f"key {self.name!r} needs 64 hexadecimal digits and a positive rate")


def new_key(name: str, per_minute: float) -> tuple[str, ApiKey]:
    """Return a new secret, to be shown once, and its stored form."""
    secret = f"infill-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return secret, ApiKey(name=name, sha256=digest, per_minute=per_minute)


def read_keys(location: str) -> tuple[ApiKey, ...]:
    """Read a file of keys; an empty location has none.

    Raises:
        UserError: if the file is missing or a line is not a key.
    """
    if not location:
        return ()
    try:
        lines = storage.read(location).decode().splitlines()
        keys = tuple(ApiKey(**json.loads(line)) for line in lines if line.strip())
    except FileNotFoundError as error:
        raise UserError(
            f"there is no key file {location}; make one with `python jobs/make_key.py`"
        ) from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{location} is not a key file: {error}") from error
    if not keys:
        raise UserError(f"{location} holds no key; add one with `python jobs/make_key.py`")
    return keys


def add_key(location: str, key: ApiKey) -> None:
    """Add a key to a file, which is created if it does not exist.

    Raises:
        UserError: if the name is taken.
    """
    kept = read_keys(location) if storage.exists(location) else ()
    if any(other.name == key.name for other in kept):
        raise UserError(f"{location} has a key for {key.name!r} already; remove its line first")
    lines = [json.dumps(asdict(one)) + "\n" for one in (*kept, key)]
    storage.write(location, "".join(lines).encode())


class ApiKeyAuth:
    """Checks API keys and their rate limits. Each process counts on its own."""

    def __init__(self, keys: Sequence[ApiKey], clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = tuple(keys)
        self._clock = clock
        self._tokens = {key.name: (key.per_minute, clock()) for key in keys}

    def admit(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the client's name; "" if the service needs no keys.

        Raises:
            RequestError: 401 without a known key, 429 past its rate.
        """
        if not self._keys:
            return ""
        given = _secret(headers)
        digest = hashlib.sha256(given).hexdigest()
        # Every key is compared in full, so that timing does not reveal where they differ.
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not given or not matches:
            raise RequestError(
                401, "unauthorized", "send a known key as `Authorization: Bearer KEY`"
            )
        self._spend(matches[0])
        return matches[0].name

    def _spend(self, key: ApiKey) -> None:
        """Take one token from the key's bucket, which refills evenly."""
        tokens, at = self._tokens[key.name]
        now, per_s = self._clock(), key.per_minute / 60
        tokens = min(tokens + (now - at) * per_s, max(key.per_minute, 1.0))
        if tokens < 1:
            self._tokens[key.name] = (tokens, now)
            raise RequestError(
                429,
                "rate_limited",
                f"the key makes more than {key.per_minute:g} requests a minute",
                math.ceil((1 - tokens) / per_s),
            )
        self._tokens[key.name] = (tokens - 1, now)


def _secret(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
