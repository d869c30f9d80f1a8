"""Temporary folders of jobs, and those that a killed one leaves."""

import subprocess
import sys

from infill.pipeline.temporary_folders import PREFIX, temporary_folder

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
