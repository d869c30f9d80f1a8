"""Two hosts and the cable between them, in namespaces of this process's own: for the drill.

Run inside a network namespace that nothing else uses. The head, the object store and one worker
are at one host, the other worker at the other; the cable is cut while they train.
"""

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "infra" / "local"))

import conftest

HERE, THERE = "192.0.2.1", "192.0.2.2"  # Reserved for documentation: nobody's.


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def main(folder: Path, shards: Path, calm: str) -> None:
    """Cut the cable under a training on shards, and compare with the digest of a calm one."""
    other = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    time.sleep(0.5)
    there = ["nsenter", "--target", str(other.pid), "--net"]
    ip("link", "set", "lo", "up")
    ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(other.pid))
    ip("addr", "add", f"{HERE}/30", "dev", "cable")
    ip("link", "set", "cable", "up")
    for words in (
        ["addr", "add", f"{THERE}/30", "dev", "cable"],
        ["link", "set", "cable", "up"],
        ["link", "set", "lo", "up"],
    ):
        subprocess.run([*there, "ip", *words], check=True)
    try:
        with conftest.running(
            folder,
            shards,
            host=HERE,
            addresses={"head": HERE, "cpu": HERE, "gpu-like": THERE},
            before={"gpu-like": there},
            # Both have one name, by which gloo would look their addresses up.
            settings={"": {"GLOO_SOCKET_IFNAME": "cable"}},
        ) as room:
            partition(room, calm)
    finally:
        other.kill()
        other.wait()


def partition(room: conftest.Room, calm: str) -> None:
    job = room.train("parted")
    job.wait_for("step 20/")
    ip("link", "set", "cable", "down")
    job.wait_for("waiting for resources", timeout_s=400)
    mended = time.monotonic()
    ip("link", "set", "cable", "up")
    room.cluster.kill("gpu-like")
    room.cluster.start_node("gpu-like")
    job.wait_for("samples_per_s", after="waiting for resources")
    print(f"RECOVERED {time.monotonic() - mended:.1f}", flush=True)
    job.succeeds()
    assert room.weights("parted") == calm
    print("SAME WEIGHTS", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
