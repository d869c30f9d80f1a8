import io

import cv2
import numpy as np
import pytest
from PIL import Image

from infill.pipeline.errors import UserError
from infill.pipeline.images import RejectedError, decode_sample
from infill.pipeline.sharding import ShardConfig
from infill.pipeline.sharding.samples import samples_of

PIXELS = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)


def encoded(kind: str, pixels: np.ndarray = PIXELS) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def shown(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_plain_picture_keeps_its_bytes(kind: str, suffix: str) -> None:
    for wanted in ("original", suffix):
        (sample,) = samples_of("a/b", encoded(kind), ShardConfig(format=wanted))  # type: ignore[arg-type]
        assert sample.data == encoded(kind)
        assert (sample.key, sample.suffix, sample.crop) == ("a/b", suffix, None)
        assert (sample.height_px, sample.width_px) == (96, 160)


def test_picture_in_another_format_than_wanted_is_encoded() -> None:
    (sample,) = samples_of("a", encoded("PNG"), ShardConfig(format="webp"))
    assert sample.suffix == "webp"
    assert sample.data[8:12] == b"WEBP"


@pytest.mark.parametrize(("kind", "suffix"), [("BMP", "png"), ("TIFF", "png"), ("GIF", "png")])
def test_odd_picture_is_encoded_without_loss(kind: str, suffix: str) -> None:
    (sample,) = samples_of("a", encoded(kind), ShardConfig())
    assert sample.suffix == suffix
    expected = np.asarray(Image.open(io.BytesIO(encoded(kind))).convert("RGB"))
    np.testing.assert_array_equal(shown(sample.data), expected)


def test_crops_tile_the_photograph_and_say_where_they_were() -> None:
    config = ShardConfig(crop_size_px=32, format="png", min_side_px=1)
    samples = list(samples_of("a", encoded("PNG"), config))
    assert len(samples) == 3 * 5
    assert [sample.key for sample in samples[:6]] == [
        *("a_000-000", "a_000-001", "a_000-002", "a_000-003", "a_000-004", "a_001-000")
    ]
    for sample in samples:
        assert sample.crop is not None
        left, top, width, height = sample.crop
        assert (sample.width_px, sample.height_px) == (width, height) == (32, 32)
        np.testing.assert_array_equal(shown(sample.data), PIXELS[top : top + 32, left : left + 32])


def test_stride_makes_crops_overlap() -> None:
    config = ShardConfig(crop_size_px=64, crop_stride_px=16, min_side_px=1)
    boxes = [sample.crop for sample in samples_of("a", encoded("PNG"), config)]
    assert boxes == [(x, y, 64, 64) for y in (0, 16, 32) for x in range(0, 97, 16)]


def test_photograph_is_shrunk_before_it_is_cut() -> None:
    config = ShardConfig(resize_short_side_px=48, crop_size_px=40, format="png")
    samples = list(samples_of("a", encoded("PNG"), config))
    assert [sample.crop for sample in samples] == [(0, 0, 40, 40), (40, 0, 40, 40)]
    halved = PIXELS.reshape(48, 2, 80, 2, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(shown(samples[1].data) - halved[:40, 40:80]).max() <= 0.5


def test_photograph_already_small_keeps_its_bytes_when_asked_to_shrink() -> None:
    (sample,) = samples_of("a", encoded("JPEG"), ShardConfig(resize_short_side_px=96))
    assert sample.data == encoded("JPEG")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ShardConfig(min_side_px=97), "smaller than min_side_px 97: 160 x 96 px"),
        (ShardConfig(crop_size_px=128), "smaller than crop_size_px 128: 160 x 96 px"),
        (ShardConfig(max_pixels=15_000), "160 x 96 pixels are more than max_pixels 15000"),
    ],
)
def test_photograph_of_the_wrong_size_is_refused(config: ShardConfig, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        list(samples_of("a", encoded("PNG"), config))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"photographs_per_shard": 0}, "photographs_per_shard is 0, expected at least 1"),
        ({"quality": 101}, "quality is 101, expected 1 to 100"),
        ({"val_share": 0.6, "test_share": 0.5}, "val_share \\+ test_share"),
        ({"test_share": -0.1}, "test_share is -0.1"),
        ({"crop_stride_px": 8}, "crop_stride_px needs crop_size_px"),
        ({"resize_short_side_px": 64, "crop_size_px": 65}, "leaves no room"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ShardConfig(**settings)  # type: ignore[arg-type]


def test_largest_square_is_cut_from_the_centre() -> None:
    config = ShardConfig(frame="square", format="png")
    (sample,) = samples_of("a", encoded("PNG"), config)
    np.testing.assert_array_equal(shown(sample.data), PIXELS[:, 32:128])


def test_squashing_makes_both_sides_equal() -> None:
    config = ShardConfig(frame="squash", resize_short_side_px=48, format="png")
    (sample,) = samples_of("a", encoded("PNG", PIXELS[:, :144]), config)
    blocks = PIXELS[:, :144].reshape(48, 2, 48, 3, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(shown(sample.data) - blocks).max() <= 1


def test_squashing_without_a_side_is_refused() -> None:
    with pytest.raises(UserError, match="needs resize_short_side_px"):
        ShardConfig(frame="squash")


@pytest.mark.parametrize("kind", ["png", "webp", "jpg"])
def test_cut_image_is_refused_or_can_be_loaded_by_trainings(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8)
    whole = cv2.imencode(f".{kind}", noise)[1].tobytes()
    (sample,) = samples_of("key", whole, ShardConfig(source="x"))
    assert sample.data == whole
    refused = 0
    for cut in range(1, 40):
        try:
            (sample,) = samples_of("key", whole[:-cut], ShardConfig(source="x"))
        except RejectedError:
            refused += 1
        else:
            pixels = decode_sample(sample.data)
            assert pixels is not None, cut
            assert pixels.shape == (70, 80, 3)
    assert refused > 20
