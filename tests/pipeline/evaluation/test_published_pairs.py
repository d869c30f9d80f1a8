"""A protocol with mask files pairs every image with one of them, as the papers do."""

from collections import Counter

import cv2
import numpy as np
import pyarrow as pa
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import EvaluationConfig
from infill.pipeline.evaluation.pairs import PublishedPairs, lay_pairs
from infill.pipeline.evaluation.protocols import load_protocol
from infill.pipeline.manifest import SAMPLE_SCHEMA, Manifest, ShardRecord
from infill.pipeline.masks import MaskConfig

SIDE = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve masks, two in each published range of hole ratio."""
    folder = tmp_path_factory.mktemp("liu")
    for number in range(12):
        picture = np.zeros((40, 40), np.uint8)
        picture[: 2 * (number + 1), :] = 255
        cv2.imwrite(str(folder / f"{number:05d}.png"), picture)
    return str(folder)


def pairs_of(listed: Manifest, folder: str, protocol: str, **changes) -> PublishedPairs:
    masks = MaskConfig(folder=folder)
    config = EvaluationConfig(checkpoint="c", shards="s", protocol=protocol, masks=masks, **changes)
    pairs = lay_pairs(config, listed, SIDE)
    assert isinstance(pairs, PublishedPairs)
    return pairs


def test_all_has_as_many_composites_as_images(listed, folder):
    pairs = pairs_of(listed, folder, "spn-celeba")
    assert len(pairs) == 12
    pairs = pairs_of(listed, folder, "madf-places2")
    counted = [pair for pair in map(pairs.__getitem__, range(len(pairs))) if pair.group.in_all]
    assert len(pairs) == 24
    assert [pair.key for pair in counted] == [f"sample{number:02d}" for number in range(12)]


def many(listed: Manifest, count: int) -> Manifest:
    """Return a manifest of so many images, which are nowhere to be read."""
    columns = {name: listed.samples.column(name).take([0] * count) for name in SAMPLE_SCHEMA.names}
    columns["key"] = pa.array([f"sample{number:05d}" for number in range(count)])
    samples = pa.table(columns, schema=SAMPLE_SCHEMA)
    record = ShardRecord(name="shard-000000.tar", samples=count, size=20_480, sha256="0" * 64)
    return Manifest(location="/nowhere", samples=samples, shards=(record,))


@pytest.mark.parametrize(("protocol", "images"), [("spn-paris", 100), ("madf-places2", 12_000)])
def test_fid_is_over_as_many_composites_as_the_paper_has(listed, folder, protocol, images):
    """Counted from the pairs; none of the composites is made."""
    assert load_protocol(protocol).images == (images,)
    pairs = pairs_of(many(listed, images), folder, protocol)
    counted = [pair for pair in map(pairs.__getitem__, range(len(pairs))) if pair.group.in_all]
    assert len(counted) == len({pair.key for pair in counted}) == images


def test_every_file_is_used_once_and_as_it_is(listed, folder):
    pairs = pairs_of(listed, folder, "spn-celeba")
    used = [pairs.mask(pairs[index]) for index in range(len(pairs))]
    assert {mask.id for mask in used} == {f"file:{number:05d}.png" for number in range(12)}
    for mask in used:
        picture = cv2.imread(f"{folder}/{mask.id.removeprefix('file:')}", cv2.IMREAD_GRAYSCALE)
        whole = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT)
        assert np.array_equal(mask.hole, whole > 127)


def test_a_pair_stands_in_the_column_of_its_hole_ratio(listed, folder):
    pairs = pairs_of(listed, folder, "madf-places2")
    columns = {}
    for index in range(0, len(pairs), 2):
        pair = pairs[index]
        columns.setdefault(pair.group.name, []).append(pairs.mask(pair).hole_ratio)
    assert {name: len(found) for name, found in columns.items()} == {
        name: 2 for name in ("0.01-0.1", "0.1-0.2", "0.2-0.3", "0.3-0.4", "0.4-0.5", "0.5-0.6")
    }
    for name, found in columns.items():
        low, high = map(float, name.split("-"))
        assert all(low < ratio <= high + 0.005 for ratio in found)
    assert pairs[1].group.name == "regular"
    assert pairs.mask(pairs[1]).hole_ratio == 0.25


def test_the_pairing_depends_on_the_seed_alone(listed, folder):
    def ids(**changes):
        pairs = pairs_of(listed, folder, "spn-celeba", **changes)
        return [pairs.mask(pairs[index]).id for index in range(len(pairs))]

    assert ids() == ids(batch_size=3)
    assert ids() != ids(seed=1)


@pytest.mark.parametrize(
    ("files", "images", "said"),
    [
        (12, 12, "12 mask files for 12 images: each file is used once"),
        (4, 12, "4 mask files for 12 images: each file is used 3 times"),
        (5, 12, "5 mask files for 12 images: each file is used 2 or 3 times"),
        (12, 7, "12 mask files for 7 images: 7 files are used, once each, as the seed decides"),
    ],
)
def test_unequal_numbers_of_masks_and_images_follow_one_rule(
    listed, folder, tmp_path, files, images, said
):
    for number in range(files):
        (tmp_path / f"{number:05d}.png").symlink_to(f"{folder}/{number:05d}.png")
    pairs = pairs_of(listed, str(tmp_path), "spn-celeba", num_images=images)
    uses = Counter(pairs.mask(pairs[index]).id for index in range(len(pairs)))
    assert sum(uses.values()) == images
    assert len(uses) == min(files, images)
    assert max(uses.values()) - min(uses.values()) <= 1
    assert pairs.use_of_files == said


def speck(path, value: int) -> np.ndarray:
    """Write a mask of 1,024 px with two pixels of one kind, and return it at 256 px."""
    picture = np.full((1024, 1024), 255 - value, np.uint8)
    picture[400, 640:642] = value
    nearest = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT)
    assert (nearest == 255 - value).all()  # what is tested: the nearest pixels have none of them
    cv2.imwrite(str(path), picture)
    expected = np.full((SIDE, SIDE), 255 - value, np.uint8)
    expected[100, 160] = value
    return expected > 127


@pytest.mark.parametrize("value", [255, 0], ids=["hole", "known"])
def test_a_mask_of_a_few_pixels_keeps_them_at_a_smaller_size(listed, tmp_path, value):
    expected = speck(tmp_path / "speck.png", value)
    pairs = pairs_of(listed, str(tmp_path), "spn-celeba")
    assert np.array_equal(pairs.mask(pairs[0]).hole, expected)


def test_a_mask_that_no_size_can_show_is_refused_by_name(listed, tmp_path):
    picture = np.zeros((1024, 1024), np.uint8)
    picture[::4, ::4] = 255
    cv2.imwrite(str(tmp_path / "dots.png"), picture)
    pairs = pairs_of(listed, str(tmp_path), "spn-celeba")
    with pytest.raises(
        UserError, match=r"dots\.png has pixels of both kinds in every pixel of 256"
    ):
        pairs.mask(pairs[0])
