"""Randomness by counter: every decision has its own generator, found by name, never by history."""

import hashlib
import json

import numpy as np


def number_for(purpose: str, *parts: str | int | float) -> int:
    """Return 128 bits that depend on all of ``parts`` and on nothing else."""
    name = json.dumps([purpose, *parts], separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")


def random_for(purpose: str, *parts: str | int | float) -> np.random.Generator:
    """Return the generator of one decision, the same on every machine and after any restart.

    Args:
        purpose: what is decided ("mask", "crop"), so that decisions do not depend on each other.
        parts: what it is decided for: settings, sample key, epoch, seed.
    """
    return np.random.Generator(np.random.Philox(key=number_for(purpose, *parts)))
