"""The health check beside heavy work: `/healthz` of two ingresses under large decodes and floods.

make bench ONLY=health
SECONDS=30 make bench ONLY=health

Callers of another process send photographs of 25 megapixels with a small hole, so that decoding and
encoding are most of the work; then ten times as many small requests as are let in. A third process
asks `/healthz` meanwhile, by a new connection each time.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import httpx
import numpy as np
from bench_evaluation import untrained
from pages import machine, table, write_section

from infill.pipeline.cluster import connect
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.serving.replica.deployment import choose_port, direct_ingress, start, stop

SECONDS = float(os.environ.get("SECONDS", "20"))
LARGE_PX = int(os.environ.get("SIDE", "5000"))
CALLERS = 4
WAITING = 16
HERE = Path(__file__).parent


def request_file(folder: Path, side: int, suffix: str, parameters: list[int]) -> tuple[Path, str]:
    """Write one request's body; return where, and its content type."""
    random = np.random.default_rng(0)
    smooth = cv2.resize(random.integers(0, 256, (32, 32, 3), np.uint8), (side, side))
    hole = np.zeros((side, side), np.uint8)
    hole[side // 2 : side // 2 + 40, side // 2 : side // 2 + 40] = 255
    files = {
        "image": cv2.imencode(suffix, smooth, parameters)[1].tobytes(),
        "mask": cv2.imencode(".png", hole)[1].tobytes(),
    }
    request = httpx.Request("POST", "http://a/", files=files)
    place = folder / f"request-{side}{suffix}"
    place.write_bytes(request.read())
    return place, request.headers["content-type"]


def beside(url: str, body: Path | None, kind: str, callers: int) -> tuple[dict, dict]:
    """Return the figures of the load, and those of the probes beside it."""
    program, load = sys.executable, None
    if body is not None:
        command = [program, str(HERE / "one_load.py"), f"{url}/v1/inpaint", str(body), kind]
        command += [str(callers), str(1.5 * SECONDS)]
        load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    command = [program, str(HERE / "one_probe.py"), f"{url}/healthz", str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {"rate": 0.0, "refused": 0.0}
    if load is not None:
        found = json.loads(load.communicate()[0])
    return found, json.loads(done.stdout)


def test_health(tmp_path: Path) -> None:
    checkpoint, port = untrained("spn", tmp_path), choose_port("127.0.0.1", 0)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 95]
    loads = {
        "none": (None, "", 0),
        f"{LARGE_PX**2 / 1e6:g}-MP PNG": (*request_file(tmp_path, LARGE_PX, ".png", []), CALLERS),
        f"{LARGE_PX**2 / 1e6:g}-MP JPEG": (
            *request_file(tmp_path, LARGE_PX, ".jpg", progressive),
            CALLERS,
        ),
        "flood": (*request_file(tmp_path, 256, ".png", []), 10 * WAITING),
    }
    rows = []
    with connect(environment=direct_ingress(port)):
        config = ServeConfig(
            model=checkpoint,
            port=port,
            ingress_replicas=2,
            tiling=TilingConfig(sides_px=(64, 128), least_crop_px=64),
            limits=LimitsConfig(max_waiting=WAITING, max_connections_per_caller=1000),
        )
        url = start(config)
        try:
            for name, (body, kind, callers) in loads.items():
                load, probes = beside(url, body, kind, callers)
                rows.append(
                    [
                        name,
                        str(callers),
                        f"{load['rate']:.1f}",
                        f"{load['refused']:.0f}",
                        f"{probes['probes']:.0f}",
                        f"{probes['failed']:.0f}",
                        f"{probes['median_ms']:.1f}",
                        f"{probes['p99_ms']:.1f}",
                        f"{probes['max_ms']:.1f}",
                    ]
                )
                print(" | ".join(rows[-1]), flush=True)
        finally:
            stop()
    header = ["Load", "Callers", "Images/s", "Refused", "Probes", "Failed"]
    header += ["Median, ms", "p99, ms", "Maximum, ms"]
    write_section("health", f"{machine()}. Two ingresses.\n\n{table(header, rows)}")
