"""The disk that a run writes to is full."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = """
mount -t tmpfs -o size={size}k none {disk}
{train} && exit 9
echo HELD $(ls {disk}/run/checkpoints)
mount -o remount,size=64m {disk}
echo AGAIN; {train} || exit 8
cp -r {disk}/run {kept}
"""


def in_own_mounts(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that may mount what nobody else sees."""
    words = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = subprocess.run([*words, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this system lets nobody mount a small disk")
    return subprocess.run(
        [*words, "bash", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_full_disk(tmp_path, passed):
    """Checkpoints fill a run's disk: the job says so, and goes on once there is room."""
    train = (
        f"{sys.executable} jobs/train_spn.py smoke --num-workers 0 --steps 12 "
        f"--data.shards {tmp_path}/shards --tracking.tracking-uri '' --storage"
    )
    shards = [sys.executable, "jobs/make_shards.py", "smoke", "--out", f"{tmp_path}/shards"]
    subprocess.run(shards, cwd=ROOT, check=True, capture_output=True, timeout=200)
    calm = f"{train} {tmp_path}/calm"
    subprocess.run(calm, shell=True, cwd=ROOT, check=True, capture_output=True, timeout=200)
    one = Path(tmp_path, "calm/checkpoints/step-000000012")
    size = sum(file.stat().st_size for file in one.iterdir()) // 1024
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    begin = time.monotonic()
    done = in_own_mounts(
        SCRIPT.format(size=2 * size + 200, disk=disk, train=f"{train} {disk}/run", kept=kept)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error: the disk is full" in done.stderr
    assert "free some space and run the same command again" in done.stderr
    assert "HELD step-" in done.stdout
    seconds = time.monotonic() - begin
    passed("disk full", seconds, "space is made, the command given again (both runs)")
    weights = "checkpoints/step-000000012/generator.safetensors"
    assert (kept / weights).read_bytes() == (tmp_path / "calm" / weights).read_bytes()
