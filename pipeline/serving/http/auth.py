"""API keys, stored as hashes, each with a rate limit.

A key is 32 random bytes, so its plain SHA-256 does not reveal it; slow password hashes are for
secrets that people choose. The file holds one JSON object per line:

    {"name": "alice", "sha256": "...", "per_minute": 600, "models": ["spn"], "admin": false}

The file, at a path or an s3:// address, is read again every few seconds, so keys are added, limited
and revoked while the service runs.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.node_counts import CountsThread, NodeCounts

log = logging.getLogger("infill.serving")
_READ_EVERY_S = 2.0
_OLDEST_S = 8.0
"""Age of the keys, in seconds, from which a request waits until they are read again."""
_READ_WITHIN_S = 5.0


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """The API key of one client."""

    name: str
    """Name of the client, for logs."""
    sha256: str
    """SHA-256 of the key."""
    per_minute: float = 600.0
    """Maximum number of images per minute, evenly spread or at once; a request without an image
    counts as one."""
    models: tuple[str, ...] = ()
    """Names of the models that it may use; empty: all."""
    admin: bool = False
    """Whether it may call /v1/admin, and see and end the jobs of all keys."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(self.models))
        if len(self.sha256) != 64 or self.per_minute <= 0:
            raise ValueError(f"key {self.name!r} needs 64 hexadecimal digits and a positive rate")
        if not isinstance(self.admin, bool):
            raise ValueError(f"key {self.name!r}: admin is true or false, not {self.admin!r}")


def new_key(
    name: str, per_minute: float, models: tuple[str, ...] = (), *, admin: bool = False
) -> tuple[str, ApiKey]:
    """Return a new secret, to be shown once, and its stored form."""
    secret = f"infill-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    key = ApiKey(name=name, sha256=digest, per_minute=per_minute, models=models, admin=admin)
    return secret, key


def read_keys(location: str) -> tuple[ApiKey, ...]:
    """Read a file of keys; an empty location has none.

    Raises:
        UserError: if the file is missing or a line is not a key.
    """
    if not location:
        return ()
    try:
        keys = _parse(storage.read(location))
    except FileNotFoundError as error:
        raise UserError(
            f"there is no key file {location}; make one with `python jobs/make_key.py`"
        ) from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{location} is not a key file: {error}") from error
    if not keys:
        raise UserError(f"{location} holds no key; add one with `python jobs/make_key.py`")
    return keys


def _parse(text: bytes) -> tuple[ApiKey, ...]:
    lines = text.decode().splitlines()
    return tuple(ApiKey(**json.loads(line)) for line in lines if line.strip())


def revoke_key(location: str, name: str) -> None:
    """Remove a key from a file; a running service refuses it within seconds.

    Raises:
        UserError: if there is none of this name.
    """
    keys = read_keys(location)
    kept = [key for key in keys if key.name != name]
    if len(kept) == len(keys):
        raise UserError(f"{location} has no key for {name!r}")
    _write(location, kept)


def _write(location: str, keys: Sequence[ApiKey]) -> None:
    storage.write(location, "".join(json.dumps(asdict(one)) + "\n" for one in keys).encode())


def add_key(location: str, key: ApiKey) -> None:
    """Add a key to a file, which is created if it does not exist.

    Raises:
        UserError: if the name is taken.
    """
    kept = read_keys(location) if storage.exists(location) else ()
    if any(other.name == key.name for other in kept):
        raise UserError(f"{location} has a key for {key.name!r} already; remove its line first")
    _write(location, (*kept, key))


class Caller:
    """The client of one request, and what its key allows."""

    def __init__(self, auth: "ApiKeyAuth", key: ApiKey) -> None:
        self._auth, self._key = auth, key
        self._prepaid = 1  # The request itself was counted when it was admitted.
        self.name = key.name
        self.admin = key.admin

    async def charge(self, images: int, model: str) -> None:
        """Count images before they are made.

        Raises:
            RequestError: 403 for a model that the key may not use, 429 past its rate.
        """
        allowed = self._key.models
        if allowed and model.partition("@")[0] not in allowed and model not in allowed:
            raise RequestError(
                403, "forbidden", f"the key may use {', '.join(allowed)}: name one as model"
            )
        free = min(self._prepaid, images)
        self._prepaid -= free
        if images > free:
            await self._auth.spend(self._key, images - free)

    async def give_back(self) -> None:
        """Count no image for a request that makes none, as it repeats an earlier one."""
        await self._auth.spend(self._key, -1)


def require_admin() -> None:
    """Refuse a request whose key is not an admin's.

    Raises:
        RequestError: 403, also where the service needs no keys.
    """
    caller = CALLER.get()
    if caller is None or not caller.admin:
        raise RequestError(
            403, "forbidden", "this needs an admin's key: `jobs/make_key.py NAME --admin`"
        )


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""The client of the current request; None if the service needs no keys."""


class ApiKeyAuth:
    """Checks API keys and their rate limits.

    Args:
        keys: the accepted keys; if empty, requests need none.
        location: the file that they come from, at a path or an s3:// address; "" for none.
        clock: seconds, the same in all processes that count together.
        counts: where the images of each key are counted; None counts for this process alone.
    """

    def __init__(
        self,
        keys: Sequence[ApiKey],
        location: str = "",
        clock: Callable[[], float] = time.monotonic,
        counts: CountsThread | None = None,
    ) -> None:
        self._keys = tuple(keys)
        self._required = bool(keys)
        self._location, self._clock = location, clock
        self._text, self._trouble = b"", ""
        self._read_at = clock()
        self._reading: asyncio.Future[None] | None = None
        self._counts = counts or CountsThread(NodeCounts())

    async def admit(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the client's name; "" if the service needs no keys.

        Raises:
            RequestError: 401 without a known key, 429 past its rate.
        """
        if not self._required:
            CALLER.set(None)
            return ""
        given = _secret(headers)
        digest = hashlib.sha256(given).hexdigest()
        # Every key is compared in full, so that timing does not reveal where they differ.
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not given or not matches:
            refusal = RequestError(
                401, "unauthorized", "send a known key as `Authorization: Bearer KEY`"
            )
            refusal.headers = {"WWW-Authenticate": 'Bearer realm="infill"'}
            raise refusal
        await self.spend(matches[0], 1)
        CALLER.set(Caller(self, matches[0]))
        return matches[0].name

    async def spend(self, key: ApiKey, images: int) -> None:
        """Take tokens from the key's bucket, which refills evenly.

        Raises:
            RequestError: 429 if it holds too few.
        """
        per_s, most = key.per_minute / 60, max(key.per_minute, 1.0)
        tokens = await self._counts.spend(key.name, images, key.per_minute, self._clock())
        if tokens < images:
            more = f"the key asks for more than {key.per_minute:g} images a minute"
            if images > most:
                more += f", and one request asks for {images}: ask for fewer samples"
            raise RequestError(
                429, "rate_limited", more, math.ceil((min(images, most) - tokens) / per_s)
            )

    async def usage(self) -> list[dict[str, Any]]:
        """Return the public facts on every key: name, limits, and images it may make now."""
        now = self._clock()
        return [
            {
                "name": key.name,
                "per_minute": key.per_minute,
                "models": list(key.models),
                "admin": key.admin,
                "left": int(await self._counts.left(key.name, key.per_minute, now)),
            }
            for key in self._keys
        ]

    async def refresh(self) -> None:
        """Read the file again if it is time; only keys that are old already are waited for."""
        age_s = self._clock() - self._read_at
        if not self._required or not self._location or age_s < _READ_EVERY_S:
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(asyncio.to_thread(self.read_again))
        if age_s >= _OLDEST_S:
            _, waiting = await asyncio.wait([self._reading], timeout=_READ_WITHIN_S)
            if waiting:  # A store that is away does not stop every request: the keys before stay.
                self._read_at = self._clock()

    def read_again(self) -> None:
        """Read the file; one that cannot be read changes nothing."""
        try:
            text = storage.read(self._location)
            if text != self._text:
                self._keys, self._text = _parse(text), text
                log.info("keys read again", extra={"keys": len(self._keys)})
            self._trouble = ""
        except (OSError, ValueError, TypeError) as error:
            if str(error) != self._trouble:  # Once: an ingress on another node may lack the file.
                log.error(
                    "the key file cannot be read; the keys before stay", extra={"why": str(error)}
                )
            self._trouble = str(error)
        self._read_at = self._clock()


def _secret(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
