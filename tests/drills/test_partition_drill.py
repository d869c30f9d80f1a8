"""The network between two hosts is cut."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1200)]


def test_network_partition(room, calm, tmp_path, passed, apart):
    """The cable between two hosts is cut under a training, and plugged in again."""
    words = apart("net", ["ip", "link"])
    script = Path(__file__).with_name("one_partition.py")
    shards = tmp_path / "shards"
    room.copy_shards(shards)
    done = subprocess.run(
        [*words, sys.executable, str(script), str(tmp_path / "cluster"), str(shards), calm],
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "SAME WEIGHTS" in done.stdout
    seconds = float(re.findall(r"RECOVERED ([\d.]+)", done.stdout)[0])
    passed("network parted", seconds, "the node that was cut off is restarted (KubeRay does)")
