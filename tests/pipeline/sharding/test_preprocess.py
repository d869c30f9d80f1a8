import cv2
import numpy as np
import pytest

from infill.pipeline.images import decode_sample, encode_sample
from infill.pipeline.sharding.preprocess import perceptual_hash, resize_short_side, squash


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth RGB picture, different in all four corners."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = [rows * 4 + 20, columns * 3 + 30, 230 - rows * 2 - columns * 1.5]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def test_resizing_shrinks_the_short_side_and_never_enlarges() -> None:
    assert resize_short_side(picture(40, 60), 20).shape == (20, 30, 3)
    assert resize_short_side(picture(60, 41), 20).shape == (29, 20, 3)
    assert resize_short_side(picture(40, 60), 50).shape == (40, 60, 3)


def test_resizing_averages_the_pixels_it_merges() -> None:
    shrunk = resize_short_side(picture(40, 60), 20)
    blocks = picture(40, 60).reshape(20, 2, 30, 2, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(shrunk - blocks).max() <= 0.5


def test_near_duplicates_share_their_perceptual_hash_and_others_do_not() -> None:
    generator = np.random.default_rng(3)
    coarse = [generator.integers(0, 256, (6, 8, 3)).astype(np.uint8) for _ in range(20)]
    pictures = [cv2.resize(p, (320, 240), interpolation=cv2.INTER_CUBIC) for p in coarse]

    def distance(first: np.ndarray, second: np.ndarray) -> int:
        return (perceptual_hash(first) ^ perceptual_hash(second)).bit_count()

    for index, first in enumerate(pictures):
        again = decode_sample(encode_sample(first, "jpg", 60))
        assert distance(first, cv2.resize(again, (160, 120))) <= 4
        assert all(distance(first, other) > 12 for other in pictures[index + 1 :])


def test_squashing_averages_when_it_shrinks_and_interpolates_when_it_enlarges() -> None:
    picture = np.random.default_rng(4).integers(0, 256, (12, 20, 3), np.uint8)
    for side, method in ((8, cv2.INTER_AREA), (12, cv2.INTER_AREA), (16, cv2.INTER_LINEAR)):
        expected = cv2.resize(picture, (side, side), interpolation=method)
        np.testing.assert_array_equal(squash(picture, side), expected)
    square = np.ascontiguousarray(picture[:, :12])
    assert squash(square, 12) is square


def test_resizing_by_a_fraction_averages_too() -> None:
    picture = np.random.default_rng(5).integers(0, 256, (30, 45, 3), np.uint8)
    expected = cv2.resize(picture, (33, 22), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(resize_short_side(picture, 22), expected)


def test_perceptual_hash_stays_what_manifests_hold() -> None:
    rows, columns = np.mgrid[0:240, 0:320].astype(np.float64)
    waves = [100 * np.sin(rows / 31) * np.cos(columns / 17), 100 * np.sin((rows + columns) / 23)]
    pixels = np.stack([128 + waves[0], columns * 0.7, 128 + waves[1]], axis=-1).astype(np.uint8)
    assert perceptual_hash(pixels) == 0x7F6D6DFFB2B2FF6D
    assert (
        perceptual_hash(pixels[:, :, ::-1].copy()) != 0x7F6D6DFFB2B2FF6D
    )  # red and blue weigh differently


def test_labels_are_never_mixed() -> None:
    labels = np.random.default_rng(6).integers(0, 2, (30, 45, 1), np.uint8).repeat(3, axis=2) * 255
    for resized in (resize_short_side(labels, 22, labels=True), squash(labels, 22, labels=True)):
        assert set(np.unique(resized)) == {0, 255}
    enlarged = squash(labels, 90, labels=True)
    np.testing.assert_array_equal(enlarged, labels.repeat(3, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (8, 9, 0x8A2C5A969686CBA5),
        (40, 70, 0x39D375A96B72D26C),
        (130, 150, 0x56A1D4E2694B9B3E),
        (200, 333, 0x7223ABA32B9A1C34),
        (640, 700, 0x15562E356549BBD6),
    ],
)
def test_perceptual_hash_of_every_size_stays_what_manifests_hold(height, width, expected) -> None:
    coarse = np.random.default_rng(height).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    assert perceptual_hash(smooth) == expected


def test_perceptual_hash_of_an_even_image_has_no_rise() -> None:
    assert perceptual_hash(np.full((100, 120, 3), 77, np.uint8)) == 0
