"""The process that holds the memory, in a folder like the kernel's."""

import os

from infill.pipeline.memory_holders import largest_holder
from infill.pipeline.training.controller_failures import _reason
from infill.pipeline.training.worker_failures import node_of, reason_of, with_holder


def write_process(folder, number, parent, name, held_kb):
    (folder / str(number)).mkdir()
    held = f"VmRSS:\t{held_kb} kB\n" if held_kb else ""
    (folder / str(number) / "status").write_text(f"Name:\t{name}\nPPid:\t{parent}\n{held}")


def test_the_largest_process_outside_this_job_is_named(tmp_path):
    ours = os.getpid()
    write_process(tmp_path, 1, 0, "init", 900)
    write_process(tmp_path, ours, 1, "python", 9_000_000)
    write_process(tmp_path, 50_000_001, ours, "raylet", 8_000_000)
    write_process(tmp_path, 50_000_002, 50_000_001, "ray::worker", 7_000_000)
    write_process(tmp_path, 50_000_003, 1, "other: job", 3_500_000)
    write_process(tmp_path, 50_000_004, 1, "kernel thread", 0)
    (tmp_path / "50000005").mkdir()  # It has just ended.
    (tmp_path / "meminfo").write_text("")
    assert largest_holder(tmp_path) == "other: job (process 50000003), 3.6 GB"
    assert largest_holder(tmp_path, own=50_000_001).startswith("python (process")


def test_a_system_without_such_a_folder_names_none(tmp_path):
    assert largest_holder(tmp_path / "none") == ""


def test_a_death_for_memory_names_the_holder(monkeypatch):
    place = "infill.pipeline.training.controller_failures.largest_holder"
    monkeypatch.setattr(place, lambda: "chrome (process 7), 3.0 GB")
    reason = _reason(RuntimeError("killed due to the node running low on memory (OOM)"))
    assert reason == (
        "its node was short of memory, of which chrome (process 7), 3.0 GB, holds most outside "
        "this job"
    )
    monkeypatch.setattr(place, lambda: "")
    assert _reason(RuntimeError("OOM, memory")) == "its node was short of memory"
    assert _reason(RuntimeError("The actor died.")) == "The actor died"


KILLED_BY_RAY = (
    "A worker health check failed.\nTask was killed due to the node running low on memory.\n"
    "Memory on the node (IP: 10.0.0.5, ID: 9f8e) was 15.20GB used / 16.00GB limit (0.95)"
)
KILLED_BY_THE_SYSTEM = (
    "The actor died unexpectedly before finishing this task.\n\tpid: 77\n\tip: 10.0.0.6\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
)


def test_a_worker_that_was_killed_is_told_from_one_that_failed():
    assert "short of memory" in reason_of(KILLED_BY_RAY)
    assert "the system, for lack of memory perhaps" in reason_of(KILLED_BY_THE_SYSTEM)
    assert [node_of(KILLED_BY_RAY), node_of(KILLED_BY_THE_SYSTEM)] == ["10.0.0.5", "10.0.0.6"]
    assert reason_of("NonFiniteLossError: the loss 'l1' is not finite at step 3") == ""
    assert with_holder("worker 1 has died: killed", "10.0.0.6", "java (process 9), 7.1 GB") == (
        "worker 1 has died: killed; on its node 10.0.0.6, java (process 9), 7.1 GB, holds most "
        "memory outside this job; restarting from the newest checkpoint (max_failures)"
    )
