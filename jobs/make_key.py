"""Make an API key for the endpoint, show it once, and keep its hash.

python jobs/make_key.py alice --keys keys.jsonl
python jobs/serve.py --keys keys.jsonl --host 0.0.0.0

To take a key back, delete its line and start the service anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from infill.pipeline.config import parse_one, run
from infill.pipeline.serving.http.auth import add_key, new_key


@dataclass(frozen=True, kw_only=True)
class KeyConfig:
    """The client that gets the key, and its rate limit."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """Name of the client, for logs."""
    keys: str = "keys.jsonl"
    """File of keys; it is created if it does not exist."""
    per_minute: float = 600.0
    """Maximum number of requests per minute."""


def main(words: Sequence[str] | None = None) -> None:
    """Make the key and print it, this once."""
    config = parse_one(KeyConfig, __doc__ or "", words)
    secret, key = new_key(config.name, config.per_minute)
    add_key(config.keys, key)
    print(secret)


if __name__ == "__main__":
    run(main)
