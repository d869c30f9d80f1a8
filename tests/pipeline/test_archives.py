import hashlib
import io
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import pytest

from infill.pipeline.errors import RejectedError, UserError
from infill.pipeline.images.kinds import passed_over_lines
from infill.pipeline.sources import Original, Source, open_source

CONTENT = {
    "b/1.jpg": b"one" * 400,
    "a/2.PNG": b"",
    "a/3.jpg": b"three",
    "train/4.webp": b"4" * 5000,
}
OTHERS = {"notes.txt": b"no picture", ".hidden.jpg": b"x", "__MACOSX/5.jpg": b"x"}


def zipped(file: Path, content: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file


def tarred(file: Path, content: dict[str, bytes], mode: str = "w", **options: int) -> Path:
    with tarfile.open(file, mode, **options) as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file


def read_all(kind: str, location: Path | str) -> dict[str, bytes]:
    source = open_source(kind, str(location))
    return {original.path: source.read(original) for original in source.originals()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pictures_in_a_zip_are_read_in_place(method: int, tmp_path: Path) -> None:
    file = zipped(tmp_path / "photos.zip", CONTENT | OTHERS, method)
    found = read_all("folder", file)
    assert list(found.items()) == list(CONTENT.items())
    assert [path.name for path in tmp_path.iterdir()] == ["photos.zip"]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_pictures_in_a_tar_are_read_in_place(layout: int, tmp_path: Path) -> None:
    long = {("long/" * 30) + "name.jpg": b"long"} if layout != tarfile.USTAR_FORMAT else {}
    file = tarred(tmp_path / "photos.tar", CONTENT | OTHERS | long, format=layout)
    assert list(read_all("folder", file).items()) == list((CONTENT | long).items())


def test_zip_whose_names_carry_much_besides_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        info = zipfile.ZipInfo("a.jpg")
        info.extra = b"\x99\x99" + (4000).to_bytes(2, "little") + bytes(4000)
        archive.writestr(info, b"content" * 300)
    assert read_all("folder", tmp_path / "photos.zip") == {"a.jpg": b"content" * 300}


def test_folder_of_archives_is_read_as_if_each_were_a_folder(tmp_path: Path) -> None:
    zipped(tmp_path / "test.zip", {"1.jpg": b"1"})
    (tmp_path / "more").mkdir()
    tarred(tmp_path / "more" / "b.tar", {"./2.jpg": b"2", "2.json": b"{}"})
    (tmp_path / "3.jpg").write_bytes(b"3")
    assert read_all("archives", tmp_path) == {"more/b/2.jpg": b"2", "test/1.jpg": b"1"}
    splits = [o.split for o in open_source("archives", str(tmp_path)).originals()]
    assert splits == [None, "test"]


def test_tar_within_a_tar_is_looked_into(tmp_path: Path) -> None:
    inner = {
        f"n0{n}.tar": tarred(tmp_path / "inner", {f"{n}_1.JPEG": b"%d" % n * 700}).read_bytes()
        for n in range(3)
    }
    outer = tarred(tmp_path / "outer.tar", inner | {"z.jpg": b"last"})
    assert read_all("folder", outer) == {
        **{f"n0{n}/{n}_1.JPEG": b"%d" % n * 700 for n in range(3)},
        "z.jpg": b"last",
    }


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_archive_that_is_half_there_is_refused(suffix: str, kept: float, tmp_path: Path) -> None:
    make = zipped if suffix == "zip" else tarred
    file = make(tmp_path / f"photos.{suffix}", {f"{n}.jpg": bytes(3000) for n in range(9)})
    end = file.stat().st_size if suffix == "zip" else 9 * (512 + 3072)
    file.write_bytes(file.read_bytes()[: int(kept * end)])
    with pytest.raises(UserError, match="is damaged or truncated"):
        read_all("folder", file)


def test_archives_that_cannot_be_read_in_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="decompress it to a plain .tar"):
        read_all("folder", tarred(tmp_path / "photos.tar.gz", CONTENT, "w:gz"))
    with pytest.raises(UserError, match="pack it with deflate"):
        read_all("folder", zipped(tmp_path / "photos.zip", CONTENT, zipfile.ZIP_LZMA))
    with pytest.raises(UserError, match="there is no archive"):
        read_all("folder", tmp_path / "missing.zip")


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    file = zipped(tmp_path / "photos.zip", {"a.jpg": b"x"})
    data = bytearray(file.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1  # general purpose flag, bit 0
    file.write_bytes(data)
    with pytest.raises(UserError, match="is encrypted"):
        read_all("folder", file)


def test_archives_in_an_object_store_are_read_by_ranges(
    tmp_path: Path, s3_server: dict[str, str]
) -> None:
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="archives")
    for file in (zipped(tmp_path / "a.zip", CONTENT), tarred(tmp_path / "b.tar", CONTENT)):
        client.upload_file(str(file), "archives", f"in/{file.name}")
        assert read_all("folder", f"s3://archives/in/{file.name}") == CONTENT
    both = read_all("archives", "s3://archives/in")
    assert both == {f"{name}/{path}": data for name in "ab" for path, data in CONTENT.items()}


def test_original_of_an_archive_carries_its_size_and_offset(tmp_path: Path) -> None:
    file = tarred(tmp_path / "photos.tar", {"a.jpg": b"12345"})
    (original,) = open_source("folder", str(file)).originals()
    assert original == Original(path="a.jpg", size=5, file=b"photos.tar", offset=512)


def damaged(file: Path, position: int, bit: int = 1) -> Path:
    data = bytearray(file.read_bytes())
    data[position] ^= bit
    file.write_bytes(data)
    return file


def noise(number: int) -> bytes:
    return hashlib.shake_256(b"%d" % number).digest(700) + b"text " * 99


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("streamed", [False, True])
def test_no_damage_of_a_zip_s_member_enters_and_the_others_are_read(
    method: int, streamed: bool, tmp_path: Path
) -> None:
    content = {f"{number}.jpg": noise(number) for number in range(3)}
    file = tmp_path / "photos.zip"
    with open(file, "wb") as stream, zipfile.ZipFile(stream, "w", method) as archive:
        if streamed:
            stream.seekable = lambda: False  # type: ignore[method-assign]
        for name, data in content.items():
            archive.writestr(name, data)
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        first, second = (info.header_offset for info in archive.infolist()[1:])
    assert read_all("folder", file) == content
    refused = set()
    for position in range(first, second, 7):
        file.write_bytes(whole)
        source = open_source("folder", str(damaged(file, position)))
        for original in source.originals():
            found = read_or_reason(source, original)
            if found != content[original.path]:
                refused.add((original.path, str(found)[:18]))
    assert refused == {("1.jpg", "damaged in its zip")}


def read_or_reason(source: Source, original: Original) -> bytes | str:
    try:
        return source.read(original)
    except RejectedError as error:
        return str(error)


def test_member_that_inflates_beyond_its_listed_size_is_stopped(tmp_path: Path) -> None:
    file = zipped(tmp_path / "photos.zip", {"a.jpg": bytes(10_000_000)})
    data = bytearray(file.read_bytes())
    for sign, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        begin = data.index(sign) + offset
        data[begin : begin + 4] = (1000).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(RejectedError, match="more than 1000 bytes, its list says 1000"):
        read_all("folder", file)


def test_joined_tars_are_read_to_their_end(tmp_path: Path) -> None:
    parts = [
        tarred(tmp_path / f"{n}.tar", {f"{n}/a.jpg": b"%d" % n * 900}).read_bytes()
        for n in range(3)
    ]
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(parts))
    expected = {f"{n}/a.jpg": b"%d" % n * 900 for n in range(3)}
    assert read_all("folder", joined) == expected
    outer = tarred(tmp_path / "outer.tar", {"in.tar": joined.read_bytes(), "z.jpg": b"last"})
    assert read_all("folder", outer) == {
        **{f"in/{path}": data for path, data in expected.items()},
        "z.jpg": b"last",
    }
    joined.write_bytes(b"".join(parts)[: 1536 - 10_240])
    with pytest.raises(UserError, match="is damaged or truncated"):
        read_all("folder", joined)


@pytest.mark.parametrize("behind", [b"junk" * 128, b"\xff" * 700])
def test_what_follows_a_tar_is_not_passed_over(tmp_path: Path, behind: bytes) -> None:
    file = tarred(tmp_path / "photos.tar", CONTENT)
    file.write_bytes(file.read_bytes() + behind)
    with pytest.raises(UserError, match="is damaged or truncated"):
        read_all("folder", file)


def test_damaged_header_between_members_is_not_the_end(tmp_path: Path) -> None:
    file = tarred(tmp_path / "photos.tar", {f"{n}.jpg": bytes(600) for n in range(3)})
    with pytest.raises(UserError, match="is damaged or truncated"):
        read_all("folder", damaged(file, 512 + 1024 + 259))  # the magic


def test_header_with_a_wrong_checksum_alone_is_read_if_nothing_is_skipped(tmp_path: Path) -> None:
    file = tarred(tmp_path / "photos.tar", {f"{n}.jpg": bytes([n]) * 600 for n in range(3)})
    whole = file.read_bytes()
    joined = tmp_path / "joined.tar"
    joined.write_bytes(whole + whole.replace(b"0.jpg", b"a.jpg").replace(b"1.jpg", b"b.jpg"))
    found = read_all("folder", joined)
    assert [found[name] for name in ("0.jpg", "a.jpg", "b.jpg")] == [
        bytes([n]) * 600 for n in (0, 0, 1)
    ]
    skips = bytearray(whole)
    size = 512 + 1024 + 124  # of the second header, which then leads to the end mark
    skips[size : size + 11] = b"%011o" % (600 + 2 * 512 + 512)
    file.write_bytes(skips)
    with pytest.raises(UserError, match="is damaged or truncated"):
        read_all("folder", file)


@pytest.mark.parametrize("between", ["/", "\\"])
def test_splits_of_an_archive_are_found_below_its_folder(between: str, tmp_path: Path) -> None:
    names = ("Photos", "Train", "a.jpg"), ("Photos", "TEST", "deep", "b.jpg")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for parts in names:
            info = zipfile.ZipInfo("x")
            info.filename = between.join(parts)
            archive.writestr(info, b"picture")
    originals = list(open_source("folder", str(tmp_path / "a.zip")).originals())
    assert [(o.path, o.split, o.nested_split) for o in originals] == [
        ("Photos/Train/a.jpg", None, "train"),
        ("Photos/TEST/deep/b.jpg", None, "test"),
    ]


def member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def test_members_outside_of_a_tar_get_safe_names_and_links_are_counted(tmp_path: Path) -> None:
    content = {"../b.jpg": b"b", "/root/c.jpg": b"c", "./d/../e.jpg": b"e", "C:\\x\\f.jpg": b"f"}
    file = tarred(tmp_path / "photos.tar", content)
    with tarfile.open(file, "a") as archive:
        archive.addfile(member("hard.jpg", tarfile.LNKTYPE, "../b.jpg"))
        archive.addfile(member("soft.jpg", tarfile.SYMTYPE, "/etc/passwd"))
        archive.addfile(member("pipe.jpg", tarfile.FIFOTYPE))
        archive.addfile(member("folder.jpg", tarfile.DIRTYPE))
    source = open_source("folder", str(file))
    found = {original.path: source.read(original) for original in source.originals()}
    assert found == {"b.jpg": b"b", "root/c.jpg": b"c", "d/e.jpg": b"e", "x/f.jpg": b"f"}
    lines = passed_over_lines(source.passed_over)
    assert any(line.startswith("passed over: 2 links inside tars") for line in lines)
    assert any("2 members of tars other than files" in line for line in lines)


def test_what_was_passed_over_has_one_line_each_reasons_first() -> None:
    counts = Counter({".psd": 2, "links: take them": 3, ".jxl": 1, "archives": 1, "masks": 0})
    assert passed_over_lines(counts) == [
        "passed over: 1 archives",
        "passed over: 3 links: take them",
        "passed over: 1 file .jxl, which are not read here: convert them to PNG or JPEG",
        "passed over: 2 files .psd, which are not read here: convert them to PNG or JPEG",
    ]


def test_sparse_members_are_counted_and_do_not_enter_as_pixels(tmp_path: Path) -> None:
    sparse = member("holes.jpg", tarfile.GNUTYPE_SPARSE)
    with tarfile.open(tmp_path / "photos.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(sparse)
    tarred(tmp_path / "photos.tar", {"a.jpg": b"a"}, "a")
    source = open_source("folder", str(tmp_path / "photos.tar"))
    assert [original.path for original in source.originals()] == ["a.jpg"]
    assert "1 sparse members" in passed_over_lines(source.passed_over)[0]


def test_links_and_outside_paths_in_a_zip(tmp_path: Path) -> None:
    file = zipped(tmp_path / "photos.zip", {"../a.jpg": b"a", "/b.jpg": b"b", "c\\d.jpg": b"d"})
    with zipfile.ZipFile(file, "a") as archive:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "a.jpg")
    source = open_source("folder", str(file))
    assert {o.path: source.read(o) for o in source.originals()} == {
        "a.jpg": b"a",
        "b.jpg": b"b",
        "c/d.jpg": b"d",
    }
    assert "1 links" in passed_over_lines(source.passed_over)[0]


def test_a_small_member_that_inflates_far_is_rejected_before_it_is_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = zipped(tmp_path / "photos.zip", {"bomb.png": bytes(40_000_000), "a.jpg": b"a"})
    source = open_source("folder", str(file))
    bomb, good = source.originals()
    monkeypatch.setattr(zlib, "decompressobj", None)
    with pytest.raises(RejectedError, match=r"inflate to 40000000, more than an image needs"):
        source.read(bomb)
    monkeypatch.undo()
    assert source.read(good) == b"a"


def test_masks_of_a_webdataset_are_not_photographs(tmp_path: Path) -> None:
    content = {"x.jpg": b"x", "x.mask.png": b"m", "x.json": b"{}", "my.house.jpg": b"h"}
    source = open_source("folder", str(tarred(tmp_path / "photos.tar", content)))
    assert [original.path for original in source.originals()] == ["x.jpg", "my.house.jpg"]
    assert "1 masks of images" in passed_over_lines(source.passed_over)[0]


def test_a_folder_of_archives_is_said_to_be_one(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        tarred(tmp_path / name, {"a.jpg": b"a"})
    with pytest.raises(UserError, match=r"no images but 2 archives.*make_shards\.py archives"):
        list(open_source("folder", str(tmp_path)).originals())
    assert list(read_all("archives", tmp_path)) == ["0/a.jpg", "1/a.jpg"]


def test_an_archive_under_the_name_of_another_kind_is_named(tmp_path: Path) -> None:
    tarred(tmp_path / "t.tar", {"a.jpg": b"a"}).rename(tmp_path / "t.zip")
    zipped(tmp_path / "z.zip", {"a.jpg": b"a"}).rename(tmp_path / "z.tar")
    (tmp_path / "page.zip").write_bytes(b"<!DOCTYPE html>")
    for name, kind in (("t.zip", "a tar"), ("z.tar", "a zip"), ("page.zip", "a web page")):
        with pytest.raises(UserError, match=f"{name} is {kind} by its content"):
            read_all("folder", tmp_path / name)


MASKED = ("images/a.jpg", "images/b.png", "masks/a.png", "masks/b.png", "c.jpg", "c_mask001.png")
PLAIN = ("c_mask.jpg", "ski_masks/a.jpg", "masks/parade.jpg")


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_masks_of_a_source_are_counted_and_are_not_photographs(tmp_path: Path, form: str) -> None:
    names = [*sorted(MASKED), *PLAIN[1:2]]
    place = tmp_path / f"set.{form}"
    if form == "folder":
        for name in names:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(b"x")
    else:
        make = zipped if form == "zip" else tarred
        make(place, dict.fromkeys(names, b"x"))
    source = open_source("folder", str(place))
    found = {original.path for original in source.originals()}
    folders = {"masks/a.png", "masks/b.png"}  # a tar is read once, so they are seen too late
    assert found - (folders if form == "tar" else set()) == {
        "images/a.jpg",
        "images/b.png",
        "c.jpg",
        "ski_masks/a.jpg",
    }
    [line] = passed_over_lines(source.passed_over)
    assert "masks of images" in line


def test_names_of_masks_without_an_image_are_photographs(tmp_path: Path) -> None:
    file = zipped(tmp_path / "photos.zip", dict.fromkeys(PLAIN, b"x"))
    assert set(read_all("folder", file)) == set(PLAIN)


def test_members_of_one_name_are_all_read(tmp_path: Path) -> None:
    one = tarred(tmp_path / "one.tar", {"a.jpg": b"1", "b.jpg": b"2"}).read_bytes()
    two = tarred(tmp_path / "two.tar", {"a.jpg": b"3", "/b.jpg": b"4"}).read_bytes()
    (tmp_path / "joined.tar").write_bytes(one + two)
    assert read_all("folder", tmp_path / "joined.tar") == {
        "a.jpg": b"1",
        "b.jpg": b"2",
        "a~2.jpg": b"3",
        "b~2.jpg": b"4",
    }


def test_archives_that_are_not_opened_are_counted(tmp_path: Path) -> None:
    """Inside a zip or a tar, or beside images; a tar inside a tar is looked into."""
    inner = zipped(tmp_path / "inner.zip", {"a.jpg": b"a"}).read_bytes()
    tar = tarred(tmp_path / "inner.tar", {"t.jpg": b"t"}).read_bytes()
    content = {"more.ZIP": inner, "b.jpg": b"b", "__MACOSX/x.zip": inner}
    for file, within in (
        (zipped(tmp_path / "outer.zip", {**content, "c.tar": tar}), 2),
        (tarred(tmp_path / "outer.tar", {**content, "C.TAR": tar}), 1),
    ):
        source = open_source("folder", str(file))
        found = [original.path for original in source.originals()]
        assert found == (["b.jpg"] if within == 2 else ["b.jpg", "C/t.jpg"])
        [line] = passed_over_lines(source.passed_over)
        assert line.startswith(f"passed over: {within} archives inside or beside")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "more.zip").write_bytes(inner)
    source = open_source("folder", str(folder))
    assert [original.path for original in source.originals()] == ["a.jpg"]
    assert passed_over_lines(source.passed_over)[0].startswith("passed over: 1 archives")


def test_a_link_to_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", {"a.jpg": b"a"})
    (tmp_path / "b.zip").symlink_to("/not/mounted/b.zip")
    with pytest.raises(UserError, match=r"b\.zip: link that leads nowhere; mend or remove it"):
        read_all("archives", tmp_path)
