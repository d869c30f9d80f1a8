"""Large requests to the endpoint as it is installed: 512 and 1,024 px, and photographs in tiles.

make bench ONLY=sizes
SECONDS=30 make bench ONLY=sizes

The service is `jobs/serve.py` without flags: `infill-base` and its defaults. Callers of another
process ask again as soon as they are answered. A request that is not answered with 200 is an error.
"""

import os
from pathlib import Path

import cv2
import httpx
import numpy as np
from bench_serving import load
from pages import machine, table, write_section

from infill.pipeline.cluster import connect
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.replica.deployment import choose_port, direct_ingress, start, stop

SIZES = {
    "512 px": ((512, 512), "auto"),
    "1,024 px": ((1024, 1024), "auto"),
    "2,000 x 1,500 px, tiles": ((1500, 2000), "tile"),
}
"""Height and width, and the mode."""
CALLERS = (1, 4, 16)


def request_file(folder: Path, size: tuple[int, int], mode: str) -> tuple[Path, str]:
    """Write one request's body, a sixteenth of it hole; return where, and its content type."""
    height, width = size
    random = np.random.default_rng(0)
    smooth = cv2.resize(random.integers(0, 256, (32, 32, 3), np.uint8), (width, height))
    hole = np.zeros(size, np.uint8)
    hole[height // 4 : height // 2, width // 4 : width // 2] = 255
    files = {
        "image": cv2.imencode(".jpg", smooth)[1].tobytes(),
        "mask": cv2.imencode(".png", hole)[1].tobytes(),
    }
    request = httpx.Request("POST", "http://a/", files=files, data={"mode": mode})
    place = folder / f"request-{height}-{mode}"
    place.write_bytes(request.read())
    return place, request.headers["content-type"]


def test_sizes(tmp_path: Path) -> None:
    port = choose_port("127.0.0.1", 0)
    rows = []
    with connect(environment=direct_ingress(port)):
        url = start(ServeConfig(port=port))
        try:
            for name, (size, mode) in SIZES.items():
                body = request_file(tmp_path, size, mode)
                for callers in CALLERS:
                    rows.append([name, *row(load(url, *body, callers), callers)])
                    print(" | ".join(rows[-1]), flush=True)
        finally:
            stop()
    header = ["Request", "Callers", "Requests/s", "Median, ms", "p99, ms", "Answered", "Errors"]
    seconds = os.environ.get("SECONDS", "12")
    write_section("sizes", f"{machine()}. {seconds} s a row.\n\n{table(header, rows)}")


def row(found: dict[str, float], callers: int) -> list[str]:
    """Return the cells of one load."""
    asked = found["answered"] + found["refused"]
    return [
        str(callers),
        f"{found['rate']:.2f}",
        f"{found['median_ms']:.0f}",
        f"{found['p99_ms']:.0f}",
        f"{found['answered']:.0f}",
        f"{found['refused'] / max(asked, 1):.0%}",
    ]
