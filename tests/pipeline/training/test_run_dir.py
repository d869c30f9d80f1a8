"""A run's folder: one process at a time, and what killed ones left there."""

import subprocess
import sys

import pytest

from infill.pipeline import checkpoints, storage
from infill.pipeline.errors import UserError
from infill.pipeline.temporary_folders import unfinished_folder
from infill.pipeline.training import run_dir, run_lock
from infill.pipeline.training.run_lock import locked

TRAINS = """
import sys
from infill.pipeline.training.run_lock import locked

with locked(sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_waits_for_the_first_and_is_refused_while_it_trains(tmp_path, monkeypatch):
    run, said = str(tmp_path / "run"), []
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINS, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        monkeypatch.setattr(run_lock, "WAIT_S", 0)
        holder = f"process {process.pid} on "
        refused = pytest.raises(UserError, match=f"{holder}.* is training into {run}; wait")
        with refused, locked(run, said.append):
            raise AssertionError("two processes train")
        monkeypatch.undo()

        def kill(line):
            said.append(line)
            process.kill()

        with locked(run, kill):
            pass
    [line] = said
    assert line.startswith(f"waiting for {holder}")


def test_a_folder_that_cannot_be_written_is_left_to_whoever_writes_there(tmp_path):
    (tmp_path / "file").touch()
    with locked(str(tmp_path / "file" / "run")):
        pass


def test_checkpoints_that_nobody_writes_any_more_are_deleted(tmp_path):
    folder = tmp_path / "checkpoints"
    for name in ("_tmp-0123", "step-000000001"):
        (folder / name).mkdir(parents=True)
    with unfinished_folder(folder / "step-000000002") as aside:
        run_dir.delete_unfinished(str(tmp_path))
        assert {path.name for path in folder.iterdir()} == {aside.name, "step-000000001"}
    run_dir.delete_unfinished(str(tmp_path / "new run"))


def test_old_checkpoints_without_checksums_are_deleted_from_an_object_store(bucket, monkeypatch):
    whole, half = (checkpoints.step_location(bucket, step) for step in (1, 2))
    for location in (whole, half):
        storage.write(storage.join(location, "generator.safetensors"), b"weights")
    storage.write(storage.join(whole, checkpoints.CHECKSUMS), b"{}")
    run_dir.delete_unfinished(bucket)
    assert checkpoints.steps(bucket) == [1, 2]  # It may still be written.
    monkeypatch.setattr(run_dir, "ABANDONED_AFTER_S", -60.0)
    run_dir.delete_unfinished(bucket)
    assert checkpoints.steps(bucket) == [1]
