"""A replica whose device computes no more is found and replaced."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from infill.pipeline.serving.config import ReplicaConfig
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.replica.device_check import DeviceCheck, DeviceError, compute_on
from infill.pipeline.serving.replica.replica import Replica


def test_device_that_computes_is_healthy(replica):
    asyncio.run(replica.check_health())
    assert compute_on("cpu") == sum(n * n for n in range(1, 9))


def test_dead_device_stays_dead_without_another_try():
    tries = []

    def fail(device: str) -> float:
        tries.append(device)
        raise RuntimeError("CUDA error: device-side assert triggered\nmore lines")

    check = DeviceCheck("cuda", compute=fail)
    for _ in range(3):
        with pytest.raises(DeviceError, match=r"^cuda computes no more: .*assert triggered$"):
            asyncio.run(check.run())
    assert tries == ["cuda"]


def test_wrong_result_is_a_failure():
    with pytest.raises(DeviceError, match=r"computed 203.0 in place of 204.0"):
        asyncio.run(DeviceCheck("cpu", compute=lambda device: 203.0).run())


def test_device_that_hangs_is_found_and_is_healthy_once_it_answers():
    answers, started = threading.Event(), []

    def hang(device: str) -> float:
        started.append(device)
        answers.wait()
        return compute_on(device)

    async def checks() -> None:
        check = DeviceCheck("cpu", timeout_s=0.01, compute=hang)
        for _ in range(2):
            with pytest.raises(DeviceError, match=r"has not computed a sum within 0.01 s"):
                await check.run()
        assert started == ["cpu"]
        answers.set()
        while check._pending is not None:
            try:
                await check.run()
            except DeviceError:
                continue

    try:
        asyncio.run(checks())
    finally:
        answers.set()


def test_request_on_a_dead_device_may_be_retried_elsewhere(replica, make, monkeypatch):
    """A defect of the service stays a defect: only a device that fails is blamed."""
    image, hole = make.photograph(64, 64), make.hole(64, 64, slice(10, 30), slice(20, 40))

    def fail(*words):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(replica, "_take_again", fail)
    with pytest.raises(RuntimeError, match="assert triggered"):
        asyncio.run(replica.fill("", image, hole.astype(np.uint8)))
    monkeypatch.setattr(replica, "_device_check", DeviceCheck("cuda", compute=fail))
    with pytest.raises(RequestError) as refused:
        asyncio.run(replica.fill("", image, hole.astype(np.uint8)))
    assert (refused.value.status_code, refused.value.code) == (503, "not_ready")
    with pytest.raises(DeviceError):
        asyncio.run(replica.check_health())


@pytest.mark.slow
def test_serve_replaces_a_replica_whose_device_is_dead(ray_local, spn, tmp_path, wait_until):
    """The device of the first process fails; that of its successor does not."""
    from ray import serve

    dead = tmp_path / "dead"

    class OnADyingDevice(Replica):  # Here, so that it is sent by value.
        def __init__(self, config: ReplicaConfig, dead: str) -> None:
            super().__init__(config)
            self._device_check = DeviceCheck("cpu", compute=lambda device: self._compute_on(dead))

        def _compute_on(self, dead: str) -> float:
            if Path(dead).exists() and Path(dead).read_text() == str(os.getpid()):
                raise RuntimeError("CUDA error: device-side assert triggered")
            return compute_on("cpu")

        def process(self) -> int:
            return os.getpid()

    replica = serve.deployment(OnADyingDevice).options(
        name="replica",
        health_check_period_s=0.1,
        graceful_shutdown_timeout_s=0.1,
        user_config={"models": [vars(spn)]},
        ray_actor_options={"num_cpus": 0.1},
    )
    handle = serve.run(replica.bind(ReplicaConfig(), str(dead)), name="dying", route_prefix=None)
    try:
        first = handle.process.remote().result()
        dead.write_text(str(first))

        def replaced() -> bool:
            try:
                return handle.process.remote().result() != first
            except Exception:  # Between the two.
                return False

        wait_until(replaced)
    finally:
        serve.delete("dying")


@pytest.mark.gpu
def test_failed_assertion_on_a_gpu_is_found():
    """In a process of its own, whose context it ends."""
    program = """
import asyncio, torch
from infill.pipeline.serving.replica.device_check import DeviceCheck, DeviceError
check = DeviceCheck("cuda")
asyncio.run(check.run())
try:
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].sum().item()
except RuntimeError:
    pass
try:
    asyncio.run(check.run())
except DeviceError as error:
    print("found:", error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("found: cuda computes no more"), done.stderr[-2000:]


@pytest.mark.gpu
def test_check_does_not_wait_for_a_forward_pass():
    queued = torch.zeros(8192, 8192, device="cuda")
    queued = queued @ queued
    assert compute_on("cuda") == 204.0  # The first check loads its kernels, as a replica's does.
    for _ in range(200):
        queued = queued @ queued
    assert compute_on("cuda") == 204.0
    assert not torch.cuda.current_stream().query()
