"""Serving: the endpoint and the offline job beside the bare loop over the network.

make bench ONLY=serving
NETWORK=madf SECONDS=10 make bench ONLY=serving

The bare loop is the network on one thread with pictures in memory, in a process of its own and with
the machine to itself, at the batch size that suits it best. The endpoint has one replica of one
thread; HTTP, decoding and encoding go to whatever cores are left. A process beside it asks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import httpx
import numpy as np
from bench_data import job
from bench_evaluation import untrained
from pages import machine, table, write_section

from pipeline import checkpoints
from pipeline.cluster import KEEP_MEMORY, connect
from pipeline.masks import MaskConfig
from pipeline.serving.canvas import CanvasConfig
from pipeline.serving.folder import FolderConfig
from pipeline.serving.limits import LimitsConfig
from pipeline.serving.model import ServedModel
from pipeline.serving.service import ServeConfig, start, stop
from pipeline.serving.sharded import fill_shards

NETWORK = os.environ.get("NETWORK", "spn")
SECONDS = float(os.environ.get("SECONDS", "12"))
SIDE = 64
BATCHES = (1, 2, 4, 8, 16)
CALLERS = (1, 2, 4, 8, 16, 32)
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "serving.png"
CANVAS = CanvasConfig(sides_px=(SIDE,), least_crop_px=SIDE)


def bare(checkpoint: str, batch: int) -> float:
    """Return the seconds of one pass over a batch, the median of many, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("one_bare.py")), checkpoint]
    done = subprocess.run(
        [*command, str(batch), str(SIDE), str(SECONDS / 4)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **KEEP_MEMORY},  # As replicas have it.
    )
    return float(done.stdout)


def request_file(folder: Path) -> tuple[Path, str]:
    """Write one request's body; return where, and its content type."""
    random = np.random.default_rng(0)
    smooth = cv2.resize(random.integers(0, 256, (8, 8, 3), np.uint8), (SIDE, SIDE))
    hole = np.zeros((SIDE, SIDE), np.uint8)
    hole[16:40, 16:40] = 255
    drawn = {"image": smooth, "mask": hole}
    files = {name: cv2.imencode(".png", one)[1].tobytes() for name, one in drawn.items()}
    request = httpx.Request("POST", "http://a/", files=files)
    place = folder / "request"
    place.write_bytes(request.read())
    return place, request.headers["content-type"]


def load(url: str, body: Path, kind: str, callers: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).with_name("one_load.py")), f"{url}/v1/inpaint"]
    command += [str(body), kind, str(callers), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def plot(rates: list[float], medians: list[float], tails: list[float], best: float) -> None:
    """Draw latency over throughput: the knee is where more callers bring no more pictures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained", dpi=120)
    panel = figure.subplots()
    panel.plot(rates, medians, "o-", color="#4a6fa5", label="median")
    panel.plot(rates, tails, "s--", color="#c1403d", label="99th percentile")
    for rate, median, callers in zip(rates, medians, CALLERS, strict=True):
        panel.annotate(str(callers), (rate, median), (0, 6), textcoords="offset points", fontsize=8)
    panel.axvline(best, color="#444", lw=1, ls=":", label="bare loop")
    panel.set_xlabel("pictures/s")
    panel.set_ylabel("latency (ms)")
    panel.set_yscale("log")
    panel.set_xlim(left=0)
    panel.grid(alpha=0.3)
    panel.legend()
    figure.savefig(PICTURE, format="png")


def offline_rate(checkpoint: str, shards: dict[int, str], folder: Path) -> float:
    """Return pictures per second of the offline job, the start of its processes left out."""
    model = ServedModel(
        name=NETWORK,
        reference=checkpoint,
        version="1",
        digest=checkpoints.digest(checkpoint),
        location=checkpoint,
    )
    took = {}
    for count, place in shards.items():
        config = FolderConfig(
            folder=place,
            out=str(folder / f"filled-{count}"),
            model=checkpoint,
            draw=True,
            recipe=MaskConfig(recipe="box"),
            canvas=CANVAS,
        )
        took[count] = fill_shards(model, config, lambda line: None).seconds
    few, many = sorted(took)
    return (many - few) / (took[many] - took[few])


def pictures(folder: Path, count: int) -> str:
    """Shard so many smooth pictures of the canvas's size; return the set's place."""
    place, random = folder / f"pictures-{count}", np.random.default_rng(count)
    place.mkdir()
    for number in range(count):
        coarse = random.integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(place / f"{number:05d}.png"), cv2.resize(coarse, (SIDE, SIDE)))
    out = folder / f"shards-{count}"
    words = ["folder", "--source", str(place), "--splits", "shares", "--val-share", "0"]
    job("make_shards", *words, "--test-share", "0", "--out", str(out), "--min-side-px", "32")
    return f"{out}/train"


def test_serving(tmp_path: Path) -> None:
    checkpoint = untrained(NETWORK, tmp_path)
    shards = {count: pictures(tmp_path, count) for count in (256, 2304)}
    body, kind = request_file(tmp_path)
    alone = {batch: bare(checkpoint, batch) for batch in BATCHES}
    best = max(BATCHES, key=lambda batch: batch / alone[batch])
    rate = best / alone[best]
    print(f"bare loop: {rate:.1f}/s with {best}, one takes {1e3 * alone[1]:.1f} ms", flush=True)
    with connect():
        config = ServeConfig(
            model=checkpoint,
            port=0,
            max_batch_size=best,
            canvas=CANVAS,
            limits=LimitsConfig(max_waiting=64),
        )
        url = start(config)
        try:
            found = {callers: load(url, body, kind, callers) for callers in CALLERS}
        finally:
            stop()
        offline = offline_rate(checkpoint, shards, tmp_path)
    rows = [
        [
            str(callers),
            f"{one['rate']:.1f}",
            f"{one['rate'] / rate:.0%}",
            f"{one['median_ms']:.1f}",
            f"{one['p99_ms']:.1f}",
            f"{one['refused']:.0f}",
        ]
        for callers, one in found.items()
    ]
    header = ["Callers", "Pictures/s", "Of the bare loop", "Median, ms", "p99, ms", "Refused"]
    added_ms = found[1]["median_ms"] - 1e3 * alone[1]
    facts = (
        f"{machine()}. {NETWORK}, `cpu` preset, {SIDE} px. The bare loop fills {rate:.1f} "
        f"pictures/s at its best batch of {best}; one picture takes it {1e3 * alone[1]:.1f} ms, "
        f"and one caller of the endpoint waits {added_ms:+.1f} ms longer than that. Offline, "
        f"shards to shards: {offline:.1f} pictures/s, {offline / rate:.0%} of the bare loop."
    )
    print(facts)
    write_section("serving", f"{facts}\n\n{table(header, rows)}")
    rates = [one["rate"] for one in found.values()]
    plot(
        rates,
        [one["median_ms"] for one in found.values()],
        [one["p99_ms"] for one in found.values()],
        rate,
    )
