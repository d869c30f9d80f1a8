import cv2
import numpy as np
import pyarrow as pa
import pytest

from infill.pipeline.images import decode_sample, encode_sample
from infill.pipeline.manifest import Manifest
from infill.pipeline.sharding.dedup import near_duplicates
from infill.pipeline.sharding.preprocess import perceptual_hash


def manifest(**hashes: int) -> Manifest:
    samples = pa.table(
        {
            "key": list(hashes),
            "perceptual_hash": pa.array(list(hashes.values()), pa.uint64()),
        }
    )
    return Manifest(location="nowhere", samples=samples, shards=())


def random_hashes(count: int, seed: int) -> list[int]:
    generator = np.random.default_rng(seed)
    return [int(value) for value in generator.integers(0, 2**64, count, np.uint64)]


@pytest.mark.parametrize("most_bits", [0, 1, 4, 9])
def test_pairs_found_by_bands_are_those_of_comparing_all(most_bits: int) -> None:
    ours, generator = random_hashes(200, 1), np.random.default_rng(2)
    others = random_hashes(300, 3)
    for row in range(100):  # near ones, 0 to 11 bits away
        flips = generator.choice(64, row % 12, replace=False)
        others[row] = ours[row] ^ sum(1 << int(bit) for bit in flips)
    found = near_duplicates(
        manifest(**{f"a{n}": value for n, value in enumerate(ours)}),
        manifest(**{f"b{n}": value for n, value in enumerate(others)}),
        most_bits,
    )
    expected = {}
    for row, first in enumerate(ours):
        bits, other = min(((first ^ second).bit_count(), n) for n, second in enumerate(others))
        if bits <= most_bits:
            expected[f"a{row}"] = (f"b{other}", bits)
    assert {pair.key: (pair.other_key, pair.bits) for pair in found} == expected
    assert len(expected) >= 8 * (most_bits + 1)


def test_plain_pictures_are_not_distinguished_and_so_not_reported() -> None:
    plain = perceptual_hash(np.full((64, 64, 3), 200, np.uint8))
    assert near_duplicates(manifest(a=plain), manifest(b=plain), 4) == []


def test_photograph_encoded_again_is_found_among_others() -> None:
    generator = np.random.default_rng(0)
    pictures = [
        cv2.resize(generator.integers(0, 256, (7, 9, 3)).astype(np.uint8), (180, 140))
        for _ in range(12)
    ]
    decoded = decode_sample(encode_sample(pictures[5], "jpg", 70))
    assert decoded is not None
    again = cv2.resize(decoded, (90, 70))
    train = manifest(**{f"train{n}": perceptual_hash(p) for n, p in enumerate(pictures)})
    (pair,) = near_duplicates(manifest(test=perceptual_hash(again)), train)
    assert (pair.key, pair.other_key) == ("test", "train5")
