"""A job on Ray Serve and Ray Data, whose runner is killed in the middle."""

import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from infill.pipeline.serving.client import ClientConfig
from infill.pipeline.serving.jobs.config import JobsConfig
from infill.pipeline.serving.jobs_client import JobsClient
from infill.pipeline.serving.replica.deployment import start, stop

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def runner_processes() -> list[int]:
    """Return the processes that run jobs, in the Ray that this process started."""
    names, parents = {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            names[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes()
            status = Path(f"/proc/{entry}/status").read_text()
            parents[int(entry)] = int(status.split("PPid:")[1].split()[0])

    def ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and ours(parents[process]))

    return [p for p, name in names.items() if b"ServeReplica:infill:jobs" in name and ours(p)]


def test_job_goes_on_in_a_new_runner_after_the_first_was_killed(
    ray_local, config, request_of, tmp_path, wait_until, make
):
    jobs = JobsConfig(folder=str(tmp_path / "jobs"), lease_s=1, cpus_per_actor=0.5)
    url = start(replace(config, jobs=jobs))
    try:
        pairs = []
        for number in range(20):
            files = request_of(60, 60, number)["files"]
            pairs.append((f"photo {number}", files["image"], files["mask"]))
        with JobsClient(ClientConfig(url=url)) as client:
            job = client.create(pairs)
            wait_until(lambda: client.get(job.id).status == "running")
            killed = runner_processes()
            assert killed
            for process in killed:
                os.kill(process, signal.SIGKILL)
            done = client.wait(job.id, timeout_s=300, every_s=0.2)
            assert (done.status, done.done, done.failed) == ("done", 20, 0)
            results = list(client.results(job.id))
        assert {result.id for result in results} == {identity for identity, _, _ in pairs}
        assert all(make.pixels(result.data).shape == (60, 60, 3) for result in results)
    finally:
        stop()
