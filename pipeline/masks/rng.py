"""Counter-based random numbers: a generator for each purpose and key, without state."""

import hashlib
import json
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray


class Key(ISeedSequence):
    """A generator's 128-bit key in NumPy's interface, without entropy of the system."""

    def __init__(self, number: int) -> None:
        self.number = number

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> NDArray[np.uint64]:
        """Return the key's two words."""
        assert (n_words, dtype) == (2, np.uint64), "Philox needs two words of 64 bits"
        return np.array((self.number & 2**64 - 1, self.number >> 64), np.uint64)


def number_for(purpose: str, *parts: str | int | float) -> int:
    """Return 128 bits that depend on ``parts`` alone."""
    name = json.dumps([purpose, *parts], separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")


def random_for(purpose: str, *parts: str | int | float) -> np.random.Generator:
    """Return the generator of one decision, the same on every machine and after any restart.

    Args:
        purpose: name of the decision ("mask", "crop"), so that decisions are independent.
        parts: inputs of the decision: settings, sample key, epoch, seed.
    """
    key = Key(number_for(purpose, *parts))
    return np.random.Generator(np.random.Philox(key))  # type: ignore[arg-type]  # NumPy's stubs
