"""The disk that a job writes to is full."""

import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

SCRIPT = """
mount -t tmpfs -o size={size}k none {disk}
{command} && exit 9
echo HELD $(ls {disk}/{results})
mount -o remount,size=64m {disk}
echo AGAIN; {command} || exit 8
cp -r {disk}/out {kept}
"""


def on_a_small_disk(
    mounts: list[str], folder: Path, command: str, size_kib: int, results: str
) -> tuple[Path, str]:
    """Give a job, with its place to write to added, on a disk that fills up, then on a larger one.

    Returns:
        What it has written in the end, and what there was when the disk was full.
    """
    disk, kept = folder / "disk", folder / "kept"
    disk.mkdir()
    script = SCRIPT.format(
        size=size_kib, disk=disk, command=f"{command} {disk}/out", results=results, kept=kept
    )
    done = subprocess.run(
        [*mounts, "bash", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error: the disk is full" in done.stderr
    assert "free some space and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    [held] = [line for line in done.stdout.splitlines() if line.startswith("HELD")]
    return kept, held


@pytest.fixture
def mounts(apart):
    """Words before a command that give it private mounts."""
    return apart("mount", ["true"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training that nothing has disturbed: its command, as yet without a place, and its place."""
    folder = tmp_path_factory.mktemp("calm")
    shards = [sys.executable, "jobs/make_shards.py", "smoke", "--out", f"{folder}/shards"]
    subprocess.run(shards, cwd=ROOT, check=True, capture_output=True, timeout=200)
    command = (
        f"{sys.executable} jobs/train_spn.py smoke --num-workers 0 --steps 12 "
        f"--data.shards {folder}/shards --tracking.tracking-uri '' --storage"
    )
    calm = f"{command} {folder}/calm"
    subprocess.run(calm, shell=True, cwd=ROOT, check=True, capture_output=True, timeout=200)
    return command, folder / "calm"


def test_full_disk(run, tmp_path, passed, mounts):
    """Checkpoints fill a run's disk: the job reports it, and resumes once there is space."""
    command, calm = run
    one = calm / "checkpoints" / "step-000000012"
    size_kib = sum(file.stat().st_size for file in one.iterdir()) // 1024
    begin = time.monotonic()
    kept, held = on_a_small_disk(mounts, tmp_path, command, 2 * size_kib + 200, "out/checkpoints")
    seconds = time.monotonic() - begin
    passed("disk full", seconds, "space is made, the command given again (both runs)")
    assert "step-" in held
    weights = "checkpoints/step-000000012/generator.safetensors"
    assert (kept / weights).read_bytes() == (calm / weights).read_bytes()


def test_full_disk_of_composites(run, tmp_path, passed, mounts):
    """Composites fill the disk: the job reports it, keeps its results, and makes the rest later."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    numbers = np.random.default_rng(0)
    for number in range(40):
        noise = numbers.integers(0, 256, (64, 64, 3), np.uint8)  # 12 KiB, however it is packed.
        cv2.imwrite(f"{photographs}/{number:02}.png", noise)
    command = (
        f"{sys.executable} jobs/batch_inpaint.py --model {run[1]} --generate-masks "
        f"--tiling.sides-px 64 --tiling.least-crop-px 64 {photographs}"
    )
    begin = time.monotonic()
    kept, held = on_a_small_disk(mounts, tmp_path, command, 300, "out")
    seconds = time.monotonic() - begin
    passed("disk full: folder", seconds, "space is made, the command given again (both runs)")
    assert 0 < held.count(".png") < 40
    assert "_tmp-" not in held
    assert {file.name for file in kept.iterdir()} == {
        "batch.json",
        *(file.name for file in photographs.iterdir()),
    }
    for sent in photographs.iterdir():
        filled = cv2.imread(str(kept / sent.name))
        assert np.mean(filled == cv2.imread(str(sent))) > 0.5  # What is known came back.
