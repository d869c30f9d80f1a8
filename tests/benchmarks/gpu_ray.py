"""The step of `make bench-gpu` that needs Ray."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import httpx
import numpy as np
import torch
from gpu_results import Results
from gpu_work import loading, recipe, write_set

from infill.pipeline.cluster import connect
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.replica import deployment
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.training import TrainConfig, train

ASSERTION = """
import asyncio, sys, torch
from infill.pipeline.serving.replica.device_check import DeviceCheck, DeviceError
check = DeviceCheck("cuda")
asyncio.run(check.run())
try:
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].sum().item()
except RuntimeError:
    pass
try:
    asyncio.run(check.run())
except DeviceError:
    sys.exit(7)
"""


def measure(results: Results, device: torch.device, tiny: bool, seconds: float) -> None:
    """Fill the step's rows; each number of callers asks for a number of seconds."""
    with tempfile.TemporaryDirectory() as folder:
        config = training(Path(folder), device, tiny)
        with connect():
            for share in (1.0, 0.25):
                row = f"{round(1 / share)} trainings on one device"
                if results.wants(row):
                    results.add(row, **side_by_side(config, share))
            if results.wants("training whose worker is killed"):
                results.add("training whose worker is killed", **with_a_kill(config))
        serving(results, device, tiny, seconds)
    if device.type == "cuda" and results.wants("failed assertion on the GPU"):
        done = subprocess.run([sys.executable, "-c", ASSERTION], capture_output=True, check=False)
        results.add("failed assertion on the GPU", found=done.returncode == 7)


def training(folder: Path, device: torch.device, tiny: bool) -> TrainConfig:
    """Return a short training of the U-Net on one worker."""
    config = recipe("unet", tiny)
    count = 4 if tiny else 16
    shards = write_set(folder / "shards", 8 * count, 2 * config.data.image_size_px)
    return replace(
        config,
        data=loading(shards, config, 2, count),
        storage=str(folder / "run"),
        steps=24 if tiny else 400,
        num_workers=1,
        use_gpu=device.type == "cuda",
        save_every_steps=2 if tiny else 50,
        validation_samples=4,
        tracking=TrackingConfig(tracking_uri=""),
    )


def with_a_kill(config: TrainConfig) -> dict[str, object]:
    """Train, and kill the worker after its first checkpoint."""
    lines: list[str] = []
    config = replace(config, storage=config.storage + "-killed")
    begin, ended = time.monotonic(), threading.Event()
    killer = threading.Thread(target=kill_after_a_checkpoint, args=(config.storage, ended))
    killer.start()
    try:
        result = train(config, lines.append)
    finally:
        ended.set()
        killer.join()
    resumed = sum("resuming at step" in line for line in lines)
    if not resumed:
        raise RuntimeError("the training did not resume: " + "; ".join(lines[-5:]))
    seconds = f"{time.monotonic() - begin:.0f}"
    return {"seconds": seconds, "steps": result.step, "resumed": resumed}


def kill_after_a_checkpoint(storage: str, ended: threading.Event) -> None:
    """Kill the training's workers once a checkpoint is whole."""
    while not ended.wait(0.05):
        if any(Path(storage, "checkpoints").glob("step-*/checksums.json")):
            for worker in processes(b"RayTrainWorker"):
                os.kill(worker, signal.SIGKILL)
            return


def side_by_side(config: TrainConfig, share: float) -> dict[str, object]:
    """Train on fractions of a device at once; the throughput of all together."""
    import ray

    count = round(1 / share)
    gpus = share if config.use_gpu else 0

    @ray.remote(num_gpus=gpus, num_cpus=0, max_calls=1)
    def one(number: int) -> float:
        alone = replace(config, num_workers=0, storage=f"{config.storage}-{count}-{number}")
        begin = time.monotonic()
        train(alone, lambda line: None)
        return time.monotonic() - begin

    seconds = ray.get([one.remote(number) for number in range(count)])
    rate = sum(config.steps * config.data.batch_size / each for each in seconds)
    return {"images/s": f"{rate:.1f}", "seconds": f"{max(seconds):.0f}"}


def serving(results: Results, device: torch.device, tiny: bool, seconds: float) -> None:
    """Serve the network of the package to 1 to 32 callers."""
    callers = [n for n in ((1, 2) if tiny else (1, 4, 8, 16, 32)) if results.wants(f"{n} callers")]
    if not callers:
        return
    port = deployment.choose_port("127.0.0.1", 0)
    config = ServeConfig(use_gpu=device.type == "cuda", port=port)
    side = 64 if tiny else 512
    picture = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    hole = np.zeros((side, side), np.uint8)
    hole[side // 3 : side // 2, side // 3 : side // 2] = 255
    files = {
        name: (f"{name}.png", cv2.imencode(".png", pixels)[1].tobytes(), "image/png")
        for name, pixels in (("image", picture), ("mask", hole))
    }
    with connect(environment=deployment.direct_ingress(port)):
        url = deployment.start(config)
        try:
            for count in callers:
                results.add(f"{count} callers", **called(url, files, count, seconds or 1.0))
        finally:
            deployment.stop()


def called(url: str, files: dict[str, object], callers: int, seconds: float) -> dict[str, object]:
    """Return requests per second and the median time of one, after one each to warm up."""

    def load(number: int) -> list[float]:
        with httpx.Client(timeout=120) as client:
            client.post(f"{url}/v1/inpaint", files=files).raise_for_status()
            times, end = [], time.monotonic() + seconds
            while time.monotonic() < end or not times:
                begin = time.monotonic()
                client.post(f"{url}/v1/inpaint", files=files).raise_for_status()
                times.append(time.monotonic() - begin)
            return times

    with ThreadPoolExecutor(callers) as pool:
        times = [one for many in pool.map(load, range(callers)) for one in many]
    median = float(np.median(times))
    return {"requests/s": f"{len(times) / seconds:.1f}", "median, ms": f"{1000 * median:.0f}"}


def processes(name: bytes) -> list[int]:
    """Return the processes that come from this one and whose title holds a name."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and name in (folder / "cmdline").read_bytes():
                found += [int(folder.name)] if os.getpid() in ancestors(int(folder.name)) else []
        except (OSError, ValueError):
            continue
    return found


def ancestors(process: int) -> list[int]:
    """Return the processes from which a process comes, its parent first."""
    found = []
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1].split()[1])
        found.append(process)
    return found
