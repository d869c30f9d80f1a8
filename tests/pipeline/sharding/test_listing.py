import re
from dataclasses import replace
from pathlib import Path

import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.sharding.listing import (
    FILE_NAME,
    LONGEST_KEY,
    Shares,
    key_of,
    original_of,
    read_digest,
    read_range,
    write_listings,
)
from infill.pipeline.sources import Original
from infill.pipeline.sources.original import nested_split_of

SHARES = Shares(val=0.1, test=0.2, seed=0)


def originals(*paths: str, split: str | None = None) -> list[Original]:
    return [Original(path=path, size=len(path), file=path.encode(), split=split) for path in paths]


def numbered(count: int) -> list[Original]:
    return originals(*(f"photo{number:05d}.jpg" for number in range(count)))


def rows(folder: Path, split: str, shards: int) -> list[dict[str, object]]:
    (folder / f"{split}.parquet").rename(folder / FILE_NAME)
    found = [row for number in range(shards) for row in read_range(str(folder), number)]
    (folder / FILE_NAME).rename(folder / f"{split}.parquet")
    return found


def paths_by_split(found: list[Original], shares: Shares, folder: Path) -> dict[str, list[object]]:
    folder.mkdir(exist_ok=True)
    listings = write_listings(found, shares, 7, folder)
    return {
        split: [row["path"] for row in rows(folder, split, listing.shards)]
        for split, listing in listings.items()
    }


def test_shares_are_met_and_no_photograph_is_in_two_splits(tmp_path: Path) -> None:
    splits = paths_by_split(numbered(1000), SHARES, tmp_path)
    assert {split: len(paths) for split, paths in splits.items()} == {
        "train": 700,
        "val": 100,
        "test": 200,
    }
    together = [path for paths in splits.values() for path in paths]
    assert len(set(together)) == len(together) == 1000
    assert all(paths == sorted(paths) for paths in splits.values())


def test_splits_depend_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    first = paths_by_split(numbered(100), SHARES, tmp_path / "a")
    assert paths_by_split(numbered(100), SHARES, tmp_path / "b") == first
    other = Shares(val=0.1, test=0.2, seed=1)
    assert paths_by_split(numbered(100), other, tmp_path / "c") != first


@pytest.mark.parametrize(
    ("count", "val", "test", "expected"),
    [
        (1, 0.1, 0.2, (1, 0, 0)),
        (2, 0.1, 0.2, (2, 0, 0)),
        (3, 0.01, 0.01, (1, 1, 1)),
        (3, 0.0, 0.9, (2, 0, 1)),
        (3, 0.5, 0.4, (1, 1, 1)),
        (10, 0.0, 0.0, (10, 0, 0)),
        (10, 0.1, 0.3, (6, 1, 3)),
    ],
)
def test_small_sources_keep_at_least_one_photograph_for_each_share(
    count: int, val: float, test: float, expected: tuple[int, int, int], tmp_path: Path
) -> None:
    splits = paths_by_split(numbered(count), Shares(val=val, test=test, seed=0), tmp_path)
    assert tuple(len(splits.get(name, [])) for name in ("train", "val", "test")) == expected


def test_published_splits_are_followed(tmp_path: Path) -> None:
    found = originals("a.jpg", split="test") + originals("b.jpg", split="train")
    assert paths_by_split(found, SHARES, tmp_path) == {"train": ["b.jpg"], "test": ["a.jpg"]}


def test_published_splits_are_ignored_on_request(tmp_path: Path) -> None:
    found = originals(*(f"train/{n}.jpg" for n in range(10)), split="train")
    shares = Shares(val=0.1, test=0.2, seed=0, splits="shares")
    assert len(paths_by_split(found, shares, tmp_path)["test"]) == 2


@pytest.mark.parametrize("splits", ["auto", "folders"])
def test_photograph_outside_the_split_folders_is_named(splits: str, tmp_path: Path) -> None:
    found = originals("stray.jpg") + originals("train/b.jpg", split="train")
    with pytest.raises(UserError, match="stray.jpg lies outside the folders train/"):
        write_listings(found, Shares(val=0.1, test=0.1, seed=0, splits=splits), 7, tmp_path)


def test_ranges_hold_as_many_photographs_as_asked_and_the_rest(tmp_path: Path) -> None:
    listing = write_listings(numbered(17), Shares(val=0, test=0, seed=0), 7, tmp_path)["train"]
    (tmp_path / "train.parquet").rename(tmp_path / FILE_NAME)
    assert listing.shards == 3
    assert [len(read_range(str(tmp_path), shard)) for shard in range(3)] == [7, 7, 3]
    assert listing.photographs == 17
    assert listing.bytes == 17 * len("photo00000.jpg")
    assert read_digest(str(tmp_path)) == listing.digest


def test_digest_changes_with_a_size(tmp_path: Path) -> None:
    shares = Shares(val=0, test=0, seed=0)
    one = Original(path="a.jpg", size=1, file=b"a.jpg")
    two = Original(path="a.jpg", size=2, file=b"a.jpg")
    digests = [write_listings([o], shares, 7, tmp_path)["train"].digest for o in (one, two, one)]
    assert digests[0] == digests[2] != digests[1]


def test_set_without_a_list_has_no_digest(tmp_path: Path) -> None:
    assert read_digest(str(tmp_path)) is None
    (tmp_path / FILE_NAME).write_bytes(b"PAR1 cut off")
    assert read_digest(str(tmp_path)) is None


def test_good_names_are_keys_and_others_become_keys() -> None:
    assert key_of("a/b-1_C.jpg") == "a/b-1_C"
    odd = ["a b.jpg", "a.b.jpg", "ä.jpg", "日本.png", "a+b.webp", "x" * 300 + ".jpg", "a\nb.jpg"]
    keys = [key_of(path) for path in odd]
    assert all(re.fullmatch(r"[A-Za-z0-9_/-]+", key) for key in keys)
    assert all(len(key) <= LONGEST_KEY for key in keys)
    assert keys[0].startswith("a_b-")
    assert len(set(keys)) == len(keys)


def test_names_that_differ_by_suffix_alone_get_keys_of_their_own(tmp_path: Path) -> None:
    found = originals("a-b.jpg", "a.JPG", "a.jpg", "a.png", "b.jpg")
    listing = write_listings(found, Shares(val=0, test=0, seed=0), 7, tmp_path)["train"]
    keys = [str(row["key"]) for row in rows(tmp_path, "train", listing.shards)]
    assert keys[0] == "a-b"
    assert keys[4] == "b"
    assert len(set(keys)) == 5
    assert all(key.startswith("a-") for key in keys[1:4])


def test_two_photographs_of_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds two photographs called a/b.jpg"):
        write_listings(originals("a/b.jpg", "c.jpg", "a/b.jpg"), SHARES, 7, tmp_path)


def test_place_in_an_archive_survives_the_list(tmp_path: Path) -> None:
    found = [
        Original(path="a.jpg", size=9, file=b"x.zip", offset=3, packed_size=7, split="train"),
        Original(path="b.jpg", size=9, file=b"x.tar", offset=512, split="train"),
        Original(path="c.jpg", size=9, file=b"caf\xe9.jpg", split="train"),
    ]
    write_listings(found, SHARES, 7, tmp_path)
    back = [original_of(row) for row in rows(tmp_path, "train", 1)]
    assert back == [replace(original, split=None) for original in found]


def test_no_photographs_give_no_lists(tmp_path: Path) -> None:
    assert write_listings([], SHARES, 7, tmp_path) == {}


def nested(*paths: str) -> list[Original]:
    return [
        Original(path=path, size=1, file=path.encode(), nested_split=nested_split_of(path))
        for path in paths
    ]


@pytest.mark.parametrize(
    "paths",
    [
        ("photos/train/a.jpg", "photos/val/b.jpg", "photos/test/c.jpg"),
        ("Train/a.jpg", "VAL/b.jpg", "Test/c.jpg"),
        ("one/train/a.jpg", "two/Val/b.jpg", "three/x/test/c.jpg"),
        ("Training/a.jpg", "validation/b.jpg", "testing/c.jpg"),
        ("coco/train2017/a.jpg", "coco/valid_256/b.jpg", "coco/test2017/c.jpg"),
    ],
)
def test_folders_below_others_and_in_other_case_are_splits(
    paths: tuple[str, ...], tmp_path: Path
) -> None:
    found = paths_by_split(nested(*paths), SHARES, tmp_path)
    assert found == {"train": [paths[0]], "val": [paths[1]], "test": [paths[2]]}


def test_folder_that_only_some_photographs_lie_in_is_named(tmp_path: Path) -> None:
    lines: list[str] = []
    cars = nested("vehicles/train/a.jpg", *(f"vehicles/car/{n}.jpg" for n in range(9)))
    listings = write_listings(cars, SHARES, 100, tmp_path, lines.append)
    assert sum(found.photographs for found in listings.values()) == 10
    assert len(lines) == 1
    assert "a folder is named train" in lines[0]
    mixed = nested("p/train/a.jpg", "p/test/b.jpg", "p/c.jpg")
    with pytest.raises(UserError, match=r"p/c\.jpg lies outside the folders"):
        write_listings(mixed, SHARES, 100, tmp_path, lines.append)
    everything = [*cars[:1], *nested("p/Train/b.jpg")]
    forced = replace(SHARES, splits="folders")
    assert set(paths_by_split(everything, forced, tmp_path)) == {"train"}
