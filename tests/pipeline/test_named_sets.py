from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.sources import KINDS, open_source, require_kind
from infill.pipeline.sources.named import NAMED, NamedSet, NamedSource
from infill.pipeline.sources.stores import LocalStore


def put(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())


def with_counts(name: str, *counts: int) -> NamedSet:
    """Return a public set as if it had been published with a handful of photographs."""
    found = NAMED[name]
    parts = zip(found.parts, counts, strict=True)
    return replace(found, parts=tuple(replace(part, counts=(n,)) for part, n in parts))


def splits(named: NamedSet, root: Path) -> dict[str, str | None]:
    return {o.path: o.split for o in NamedSource(named, LocalStore(root)).originals()}


def test_published_counts_are_those_of_the_papers() -> None:
    counts = {name: [part.counts[0] for part in found.parts] for name, found in NAMED.items()}
    assert counts["places2"] == counts["places2-large"] == [1_803_460, 36_500]
    assert sum(counts["facade"]) == 606
    assert counts["dtd-10"] == [5640]
    assert counts["celeba-hq"] == [30_000]
    assert counts["paris"] == [14_900, 100]
    assert [part.take for part in NAMED["places2-12k"].parts] == [None, 12_000]


def test_places2_takes_validation_images_for_test_in_their_order(tmp_path: Path) -> None:
    put(tmp_path, "data_256/a/airfield/00000001.jpg", "data_256/b/bar/00000001.jpg")
    put(tmp_path, *(f"val_256/Places365_val_0000000{n}.jpg" for n in range(1, 4)))
    named = with_counts("places2-12k", 2, 3)
    train, test = named.parts
    assert splits(replace(named, parts=(train, replace(test, take=2))), tmp_path) == {
        "data_256/a/airfield/00000001.jpg": "train",
        "data_256/b/bar/00000001.jpg": "train",
        "val_256/Places365_val_00000001.jpg": "test",
        "val_256/Places365_val_00000002.jpg": "test",
    }


def test_celeba_follows_its_list(tmp_path: Path) -> None:
    put(tmp_path, *(f"img_align_celeba/00000{n}.jpg" for n in range(1, 4)))
    lines = "000001.jpg 0\n000002.jpg 2\n000003.jpg 1\n"
    (tmp_path / "list_eval_partition.txt").write_text(lines)
    found = splits(with_counts("celeba", 3), tmp_path)
    assert list(found.values()) == ["train", "test", "val"]
    (tmp_path / "list_eval_partition.txt").unlink()
    with pytest.raises(UserError, match="list_eval_partition.txt is missing"):
        splits(with_counts("celeba", 3), tmp_path)


def test_dtd_follows_the_lists_of_its_number(tmp_path: Path) -> None:
    put(tmp_path, "images/banded/banded_0001.jpg", "images/dotted/dotted_0001.jpg")
    (tmp_path / "labels").mkdir()
    for number, (train, test) in {3: ("banded", "dotted"), 4: ("dotted", "banded")}.items():
        (tmp_path / f"labels/train{number}.txt").write_text(f"{train}/{train}_0001.jpg\n")
        (tmp_path / f"labels/test{number}.txt").write_text(f"{test}/{test}_0001.jpg\n")
        (tmp_path / f"labels/val{number}.txt").write_text("")
    assert list(splits(with_counts("dtd-3", 2), tmp_path).values()) == ["train", "test"]
    assert list(splits(with_counts("dtd-4", 2), tmp_path).values()) == ["test", "train"]


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("celeba-hq", 28_000, 2000),
        ("celeba-hq-deepgin", 27_000, 3000),
        ("celeba-hq-spn", 27_000, 2800),
    ],
)
def test_celeba_hq_is_split_as_in_each_paper(name: str, train: int, test: int) -> None:
    rule = NAMED[name].rule
    assert rule is not None
    split = rule(LocalStore(Path()))
    found = Counter(split(f"CelebA-HQ-img/{number}.jpg") for number in range(30_000))
    assert (found["train"], found["test"]) == (train, test)


def test_pennet_tests_on_the_last_fifth_of_every_texture(tmp_path: Path) -> None:
    rule = NAMED["dtd-pennet"].rule
    assert rule is not None
    split = rule(LocalStore(tmp_path))
    found = Counter(
        split(f"images/{name}/{name}_{number:04d}.jpg")
        for name in (f"texture{kind}" for kind in range(47))
        for number in range(120)
    )
    assert found == {"train": 4512, "test": 1128}


def test_deepgin_s_part_of_ade20k_is_not_the_whole_of_it(tmp_path: Path) -> None:
    counts = {
        name: [part.counts for part in NAMED[name].parts] for name in NAMED if name[:3] == "ade"
    }
    assert counts == {"ade20k": [(20_210,), (2000,)], "ade20k-deepgin": [(10_330,)]}
    put(tmp_path, "images/training/a.jpg", "images/training/b.jpg")
    with pytest.raises(UserError, match="holds 2 photographs, expected 10,330"):
        splits(NAMED["ade20k-deepgin"], tmp_path)


def test_madf_trains_on_200_000_faces() -> None:
    rule = NAMED["celeba-madf"].rule
    assert rule is not None
    split = rule(LocalStore(Path()))
    found = Counter(split(f"img_align_celeba/{number:06d}.jpg") for number in range(1, 202_600))
    assert found == {"train": 200_000, "test": 2599}


def test_facade_leaves_label_maps_out(tmp_path: Path) -> None:
    put(tmp_path, "base/cmp_b0001.jpg", "base/cmp_b0001.png", "base/cmp_b0378.jpg")
    put(tmp_path, "extended/cmp_x0228.jpg", "extended/cmp_x0228.png")
    assert splits(with_counts("facade", 2, 1), tmp_path) == {
        "base/cmp_b0001.jpg": "train",
        "base/cmp_b0378.jpg": "test",
        "extended/cmp_x0228.jpg": "train",
    }


def test_ffhq_tests_on_the_last_ten_thousand(tmp_path: Path) -> None:
    put(tmp_path, "images1024x1024/59000/59999.png", "images1024x1024/60000/60000.png")
    assert list(splits(with_counts("ffhq", 2), tmp_path).values()) == ["train", "test"]


def test_imagenet_is_read_from_its_tar_of_tars(tmp_path: Path) -> None:
    import io
    import tarfile

    def tar(content: dict[str, bytes]) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return stream.getvalue()

    train = tar({f"n0{n}.tar": tar({f"n0{n}_1.JPEG": b"train%d" % n}) for n in range(2)})
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(train)
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(tar({"ILSVRC2012_val_1.JPEG": b"val"}))
    source = NamedSource(with_counts("imagenet", 2, 1), LocalStore(tmp_path))
    assert {(o.path, o.split, source.read(o)) for o in source.originals()} == {
        ("ILSVRC2012_img_train/n00/n00_1.JPEG", "train", b"train0"),
        ("ILSVRC2012_img_train/n01/n01_1.JPEG", "train", b"train1"),
        ("ILSVRC2012_img_val/ILSVRC2012_val_1.JPEG", "test", b"val"),
    }


def test_half_downloaded_set_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    put(tmp_path, "paris_train_original/1.JPG", "paris_train_original/2.JPG")
    with pytest.raises(UserError, match="holds 2 photographs, expected 14,900; fetch the missing"):
        list(open_source("paris", str(tmp_path)).originals())
    (tmp_path / "paris_train_original").rename(tmp_path / "other")
    with pytest.raises(UserError, match="Paris StreetView has no paris_train_original in the"):
        list(open_source("paris", str(tmp_path)).originals())


def test_every_name_opens_and_a_wrong_one_gets_a_hint(tmp_path: Path) -> None:
    for kind in KINDS:
        open_source(kind, str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'places2-large'"):
        require_kind("places2_large")


def test_list_names_photographs_and_their_splits(tmp_path: Path) -> None:
    put(tmp_path, "in/a.jpg", "elsewhere/b c.jpg")
    lines = f"path,split,note\nin/a.jpg,test,x\n{tmp_path}/elsewhere/b c.jpg,train,\n"
    (tmp_path / "list.csv").write_text(lines)
    source = open_source("folder", str(tmp_path / "list.csv"))
    found = list(source.originals())
    assert [(o.path, o.split, o.size) for o in found] == [
        ("in/a.jpg", "test", 8),
        (f"{tmp_path}/elsewhere/b c.jpg", "train", 17),
    ]
    assert [source.read(o) for o in found] == [b"in/a.jpg", b"elsewhere/b c.jpg"]


def test_parquet_list_without_splits_leaves_them_open(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    put(tmp_path, "a.jpg")
    pq.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "list.parquet")
    (original,) = open_source("folder", str(tmp_path / "list.parquet")).originals()
    assert (original.path, original.split) == ("a.jpg", None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path\nmissing.jpg\n", "names missing.jpg, which is no file"),
        ("file\na.jpg\n", "has no column path, only file"),
        ("path,split\na.jpg,dev\n", "into split 'dev'; train, val and test"),
        ("path,split\na.jpg\n", "cannot be read as a table"),
        ("path,split\na.jpg,val\n,val\n", "column path of row 2 is empty; correct the row"),
        ("path,split\nhttp://x/a.jpg,val\n", "row 1 is http://x/a.jpg, which is not read; give"),
        ("path\na.jpg\n.\n", r"names \., which is no file"),
        ('path\na.jpg\n" "\n', "column path of row 2 is empty"),
        ("path,split,Split\na.jpg,val,test\n", "has several columns split"),
        ("path;split\na.jpg;val\n", "no column path, only path;split; save it as CSV in UTF-8"),
        ("path\n" + "x" * 5000 + "\n", "names x{300}, which is no file"),
        ("path\na\0.jpg\n", r"names a\\x00.jpg, which is no file"),
        (b"path\n\xe9.jpg\n", "cannot be read as a table: .*; save it as CSV in UTF-8"),
        ("path\na.jpg\n".encode("utf-16"), "it is in UTF-16; save it as CSV in UTF-8, with"),
    ],
)
def test_list_that_does_not_hold_is_refused(
    text: str | bytes, sentence: str, tmp_path: Path
) -> None:
    put(tmp_path, "a.jpg")
    (tmp_path / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=sentence):
        list(open_source("folder", str(tmp_path / "list.csv")).originals())


def test_blanks_and_case_in_a_list_are_no_part_of_it(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    put(tmp_path, "deep/d.jpg")
    lines = f"Path, SPLIT\na.jpg, Val\n b.jpg ,TRAIN\nfile://{tmp_path}/c.jpg, \n"
    lines += "deep\\d.jpg,validation\n"
    (tmp_path / "list.csv").write_text(lines)
    source = open_source("folder", str(tmp_path / "list.csv"))
    found = list(source.originals())
    assert [o.split for o in found] == ["val", "train", None, "val"]
    assert [source.read(o) for o in found] == [b"a.jpg", b"b.jpg", b"c.jpg", b"deep/d.jpg"]


def test_a_folder_in_the_place_of_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "parts.parquet").mkdir()
    with pytest.raises(UserError, match=r"parts\.parquet is a folder, not a list"):
        list(open_source("folder", str(tmp_path / "parts.parquet")).originals())


@pytest.mark.parametrize("value", [None, 7, b"a.jpg", {"file": "a.jpg"}])
def test_row_whose_path_is_no_text_is_named(value: object, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": [value]}), tmp_path / "list.parquet")
    with pytest.raises(UserError, match="column path of row 1 is"):
        list(open_source("folder", str(tmp_path / "list.parquet")).originals())
