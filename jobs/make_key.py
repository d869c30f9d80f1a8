"""Create an API key for the endpoint; the key is printed once, and its hash is stored.

python jobs/make_key.py alice --keys keys.jsonl
python jobs/serve.py --keys keys.jsonl --host 0.0.0.0
python jobs/make_key.py alice --keys keys.jsonl --revoke

A running service reads the file again within seconds. To change a rate limit, edit the key's line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from infill.pipeline.config import parse_one, run
from infill.pipeline.serving.http.auth import add_key, new_key, revoke_key


@dataclass(frozen=True, kw_only=True)
class KeyConfig:
    """The client that gets the key, and its rate limit."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """Name of the client, for logs."""
    keys: str = "keys.jsonl"
    """File of keys; it is created if it does not exist."""
    per_minute: float = 600.0
    """Maximum number of images per minute."""
    models: tuple[str, ...] = ()
    """Names of the models that the key may use; empty: all."""
    admin: bool = False
    """Whether the key may call /v1/admin, and see and end the jobs of all keys."""
    revoke: bool = False
    """Whether to remove the client's key instead."""


def main(words: Sequence[str] | None = None) -> None:
    """Create a key and print it, or revoke one."""
    config = parse_one(KeyConfig, __doc__ or "", words)
    if config.revoke:
        revoke_key(config.keys, config.name)
        print(f"revoked the key of {config.name}")
        return
    secret, key = new_key(config.name, config.per_minute, config.models, admin=config.admin)
    add_key(config.keys, key)
    print(secret)


if __name__ == "__main__":
    run(main)
