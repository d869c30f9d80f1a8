"""Find near-duplicates between splits by perceptual hashes.

Two images are near-duplicates if their perceptual hashes differ in few bits. If at most
``most_bits`` differ in ``most_bits + 1`` bands of a hash, at least one band is equal, so only
images that share a band are compared: a million against a hundred thousand takes seconds, not the
10^11 comparisons of all pairs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from infill.pipeline.manifest import Manifest

FEWEST_SET_BITS = 8
"""Minimum numbers of rises and falls in brightness: plainer images are not compared by hash."""

Hashes = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(frozen=True, kw_only=True)
class NearDuplicate:
    """A sample of one set that resembles one of another."""

    key: str
    other_key: str
    bits: int
    """Number of bits in which the two hashes differ, 0 to 64."""


def near_duplicates(ours: Manifest, others: Manifest, most_bits: int = 4) -> list[NearDuplicate]:
    """Return the samples of ``ours`` that resemble one of ``others``, the closest for each.

    Args:
        ours: usually the test set.
        others: usually the train set.
        most_bits: maximum number of the 64 bits that differ.
    """
    our_hashes, other_hashes = _hashes(ours), _hashes(others)
    closest: dict[int, tuple[int, int]] = {}
    for row, other, bits in _pairs(our_hashes, other_hashes, most_bits):
        closest[row] = min(closest.get(row, (65, 0)), (bits, other))
    return [
        NearDuplicate(
            key=ours.samples["key"][row].as_py(),
            other_key=others.samples["key"][other].as_py(),
            bits=bits,
        )
        for row, (bits, other) in sorted(closest.items())
    ]


def _hashes(manifest: Manifest) -> Hashes:
    return np.asarray(manifest.samples["perceptual_hash"].to_numpy(), np.uint64)


def _pairs(ours: Hashes, others: Hashes, most_bits: int) -> list[tuple[int, int, int]]:
    found = []
    distinctive = np.flatnonzero(_is_distinctive(others))
    edges = np.linspace(0, 64, most_bits + 2).round().astype(int)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        bands = _band(others[distinctive], low, high)
        order = np.argsort(bands, kind="stable")
        candidates, bands = distinctive[order], bands[order]
        wanted = _band(ours, low, high)
        first = np.searchsorted(bands, wanted, "left")
        last = np.searchsorted(bands, wanted, "right")
        for row in np.flatnonzero((last > first) & _is_distinctive(ours)).tolist():
            near = candidates[first[row] : last[row]]
            bits = np.bitwise_count(others[near] ^ ours[row])
            best = int(bits.argmin())
            if bits[best] <= most_bits:
                found.append((row, int(near[best]), int(bits[best])))
    return found


def _is_distinctive(hashes: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    bits = np.bitwise_count(hashes)
    return (bits >= FEWEST_SET_BITS) & (bits <= 64 - FEWEST_SET_BITS)


def _band(hashes: Hashes, low: int, high: int) -> Hashes:
    mask = np.uint64((1 << int(high - low)) - 1)
    return (hashes >> np.uint64(low)) & mask
