import os
from pathlib import Path

import pytest

from infill.jobs import make_shards
from infill.pipeline.errors import UserError
from infill.pipeline.sources import BUNDLED, KINDS, Original, Source, open_source
from infill.pipeline.sources.named import NAMED


def put(root: Path, *paths: str) -> Path:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
    return root


def folder(root: Path) -> Source:
    return open_source("folder", str(root))


def listed(root: Path) -> list[str]:
    return [original.path for original in folder(root).originals()]


def test_folder_is_listed_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    paths = [
        "b/1.jpg",
        "a/z.png",
        "a-b/1.jpg",
        "a.jpg",
        "ä.webp",
        "Z.JPG",
        "a/b/c.tiff",
        "a0/x.bmp",
    ]
    assert listed(put(tmp_path, *paths)) == sorted(paths)


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "notes.txt", ".hidden.jpg", ".git/a.jpg", "__MACOSX/a.jpg", "_tmp-1.jpg", "jpg")
    put(tmp_path, "@eaDir/a.jpg", "below/@eaDir/a.jpg/b.jpg", "#recycle/a.jpg")
    put(tmp_path, "a.jpg", "_DSC0001.JPG")
    assert listed(tmp_path) == ["_DSC0001.JPG", "a.jpg"]


def test_original_carries_its_size_and_reads_back(tmp_path: Path) -> None:
    source = folder(put(tmp_path, "deep/er/a.jpg"))
    (original,) = source.originals()
    assert original.size == len("deep/er/a.jpg")
    assert source.read(original) == b"deep/er/a.jpg"


def test_folders_named_as_splits_are_splits(tmp_path: Path) -> None:
    put(tmp_path, "train/a.jpg", "val/x/b.jpg", "test/c.jpg", "other/train/d.jpg", "train.jpg")
    splits = {original.path: original.split for original in folder(tmp_path).originals()}
    assert splits == {
        "train/a.jpg": "train",
        "val/x/b.jpg": "val",
        "test/c.jpg": "test",
        "other/train/d.jpg": None,
        "train.jpg": None,
    }


def test_name_that_is_not_utf8_is_listed_and_read(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as stream:
        stream.write(b"content")
    source = folder(tmp_path)
    (original,) = source.originals()
    assert original.path == "caf\\xe9.jpg"
    assert source.read(original) == b"content"


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "a.jpg")
    root = put(tmp_path / "root", "b.jpg")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "linked.png").symlink_to(root / "b.jpg")
    (root / "circle").symlink_to(root)
    source = folder(root)
    assert [found.path for found in source.originals()] == ["b.jpg", "linked.png", "linked/a.jpg"]
    assert dict(source.passed_over) == {
        "link to a folder that holds it, whose files are taken once: circle": 1,
        "archives inside or beside what is read, which are not opened: unpack them": 0,
    }


@pytest.mark.parametrize(
    ("kind", "location", "sentence"),
    [
        ("folder", "", "--source DIR"),
        ("folder", "ftp://somewhere/photos", "give a path or s3://bucket"),
        ("picasa", "x", "The sources are"),
    ],
)
def test_impossible_source_is_refused(kind: str, location: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_source(kind, location)


def test_no_kind_has_the_name_of_a_public_dataset_or_of_another_preset() -> None:
    """A dictionary would take the later one in silence."""
    assert [name for name in NAMED if not KINDS[name].about.startswith(NAMED[name].title)] == []
    assert {kind: make_shards.PRESETS[kind].kind for kind in KINDS} == {
        kind: kind for kind in KINDS
    }


def test_missing_folder_and_a_file_in_its_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        listed(tmp_path / "missing")
    with pytest.raises(UserError, match="is a file"):
        listed(put(tmp_path, "a.jpg") / "a.jpg")


def test_bundled_photographs_are_there_and_kept_apart() -> None:
    source = open_source("bundled", "")
    originals = list(source.originals())
    assert len(originals) == len(BUNDLED) == 15
    assert {original.split for original in originals} == {"train", "val", "test"}
    assert sum(original.split == "test" for original in originals) == 4
    for original in originals:
        assert len(source.read(original)) == original.size > 20_000
    assert "skimage/motorcycle_right.png" not in {original.path for original in originals}


@pytest.fixture
def bucket(s3_server: dict[str, str], request: pytest.FixtureRequest) -> str:
    import boto3

    name = request.node.name.replace("_", "-")[:60]
    boto3.client("s3").create_bucket(Bucket=name)
    return name


def test_objects_are_listed_and_read_as_files_are(bucket: str, tmp_path: Path) -> None:
    import boto3

    paths = ["b/1.jpg", "a-b/1.jpg", "a/z.png", "ä ö+%.webp", "a.txt", ".x.jpg", "train/t.jpg"]
    put(tmp_path, *paths)
    for path in [*paths, "../beside.jpg"]:
        key = f"photos/{path}" if path[0] != "." or path == ".x.jpg" else "photos-other/a.jpg"
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=path.encode())
    remote = open_source("folder", f"s3://{bucket}/photos/")
    assert list(remote.originals()) == list(folder(tmp_path).originals())
    for original in remote.originals():
        assert remote.read(original) == original.path.encode()


def test_more_objects_than_one_page_are_listed(bucket: str) -> None:
    import boto3

    client = boto3.client("s3")
    for number in range(1005):
        client.put_object(Bucket=bucket, Key=f"{number:05d}.jpg", Body=b"x")
    found = list(open_source("folder", f"s3://{bucket}").originals())
    assert [original.path for original in found] == [f"{n:05d}.jpg" for n in range(1005)]


def test_missing_bucket_is_refused_in_one_sentence(s3_server: dict[str, str]) -> None:
    with pytest.raises(UserError, match="cannot list s3://nowhere/at/all"):
        list(open_source("folder", "s3://nowhere/at/all").originals())


def test_object_that_is_gone_is_reported_at_once(bucket: str) -> None:
    gone = Original(path="gone.jpg", size=1, file=b"gone.jpg")
    with pytest.raises(FileNotFoundError):
        open_source("folder", f"s3://{bucket}/photos").read(gone)
