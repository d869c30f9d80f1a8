import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from infill.pipeline.sharding.tar_writer import TarWriter, written_whole

MEMBERS = {"a/b.jpg": b"x" * 700, "a/b.json": b"{}", "c.png": b"", "d.webp": b"y" * 512}


def archive(members: dict[str, bytes]) -> tuple[bytes, TarWriter, dict[str, int]]:
    stream = io.BytesIO()
    writer = TarWriter(stream)
    offsets = {name: writer.add(name, data) for name, data in members.items()}
    writer.close()
    return stream.getvalue(), writer, offsets


def test_tar_reads_back_through_tarfile() -> None:
    data, _, _ = archive(MEMBERS)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {}
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            found[member.name] = stream.read()
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
    assert found == MEMBERS


def test_tar_satisfies_the_tar_command(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive(MEMBERS)[0])
    listed = subprocess.run(
        ["tar", "tf", tmp_path / "a.tar"], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == list(MEMBERS)
    assert listed.stderr == ""


def test_offsets_lead_to_the_data() -> None:
    data, _, offsets = archive(MEMBERS)
    for name, content in MEMBERS.items():
        assert data[offsets[name] : offsets[name] + len(content)] == content


def test_size_and_checksum_are_those_of_the_file() -> None:
    data, writer, _ = archive(MEMBERS)
    assert writer.size == len(data)
    assert len(data) % 10240 == 0
    assert writer.checksum.hexdigest() == hashlib.sha256(data).hexdigest()


def test_file_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with written_whole(str(tmp_path / "a.tar")) as stream:
            stream.write(b"half")
            assert not (tmp_path / "a.tar").exists()
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_file_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    with written_whole(str(tmp_path / "a.tar")) as stream:
        stream.write(b"first")

    def fail() -> None:
        with written_whole(str(tmp_path / "a.tar")) as stream:
            stream.write(b"second")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a.tar").read_bytes() == b"first"


def test_length_is_that_of_other_writers() -> None:
    """Two blocks of zeros, and up to a whole record."""
    for size in range(0, 2 * tarfile.RECORDSIZE, tarfile.BLOCKSIZE):
        other = io.BytesIO()
        with tarfile.open(fileobj=other, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            member = tarfile.TarInfo("a")
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
        assert len(archive({"a": bytes(size)})[0]) == len(other.getvalue())
