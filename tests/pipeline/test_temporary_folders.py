"""Temporary folders of jobs, and those that a killed one leaves."""

import subprocess
import sys

from infill.pipeline import storage, temporary_folders
from infill.pipeline.temporary_folders import PREFIX, UNFINISHED, delete_kept, temporary_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from infill.pipeline.temporary_folders import temporary_folder

with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("large")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_is_deleted_with_its_block(tmp_path):
    with temporary_folder(tmp_path) as folder:
        (folder / "file").write_text("x")
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert list(tmp_path.iterdir()) == []


def test_the_next_job_deletes_the_folder_of_a_killed_one_and_no_other(tmp_path):
    (tmp_path / "somebody-else-s").mkdir()
    with temporary_folder(tmp_path) as ours:
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
        left = [path for path in tmp_path.glob(f"{PREFIX}*") if path != ours]
        assert [(path / "file").read_text() for path in left] == ["large"]
        with temporary_folder(tmp_path) as next_one:
            names = {path.name for path in tmp_path.iterdir()}
            assert names == {"somebody-else-s", ours.name, next_one.name}


KILLED_WRITING = """
import os, signal, sys
from pathlib import Path
from infill.pipeline.temporary_folders import keep_until_end, temporary_file, unfinished_folder

session = Path(sys.argv[1], "session")
session.mkdir()
keep_until_end(session)
final = Path(sys.argv[1], "final")
with temporary_file(final) as aside, unfinished_folder(final) as folder:
    aside.write_text("half")
    Path(folder, "generator.safetensors").write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_files_and_kept_folders_of_a_killed_process_alone_are_deleted(tmp_path):
    (tmp_path / "somebody-else-s").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITING, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        delete_kept(tmp_path)
        storage.write(str(tmp_path / "other"), b"x")
        temporary_folders.delete_unfinished(tmp_path)
        file, folder = sorted(tmp_path.glob(f"{UNFINISHED}*"), key=lambda path: path.is_dir())
        assert (file.read_text(), (tmp_path / "session").is_dir()) == ("half", True)
        assert (folder / "generator.safetensors").read_text() == "half"
        process.kill()
    temporary_folders._sweep.cache_clear()  # as in the next process
    delete_kept(tmp_path)
    storage.write(str(tmp_path / "other"), b"y")
    assert {path.name for path in tmp_path.iterdir()} == {"somebody-else-s", "other"}
