"""Serving: the endpoint and the offline job beside the bare loop over the network.

make bench ONLY=serving
NETWORK=madf SECONDS=10 make bench ONLY=serving

The bare loop is the network on one thread with pictures in memory, in a process of its own and with
the machine to itself, at the batch size that suits it best, before the endpoint and once more after
it, as machines are not the same from minute to minute. The endpoint has one replica of one
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

from infill.pipeline import checkpoints
from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.batch_inference.shards import inpaint_shards
from infill.pipeline.cluster import KEEP_MEMORY, connect
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.serving.replica.deployment import choose_port, direct_ingress, start, stop
from infill.pipeline.serving.replica.replica import ServedModel

NETWORK = os.environ.get("NETWORK", "spn")
SECONDS = float(os.environ.get("SECONDS", "12"))
SIDES = {64: (256, 2304), 256: (64, 256)}
"""Side of the images in pixels; their numbers in two offline runs, whose difference counts."""
BATCHES = (1, 2, 4, 8, 16)
CALLERS = (1, 2, 4, 8, 16, 32)
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "serving.png"


def tile(side: int) -> TilingConfig:
    return TilingConfig(sides_px=(side,), least_crop_px=side)


def bare(checkpoint: str, batch: int, side: int) -> float:
    """Return the seconds of one pass over a batch, the median of many, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("one_bare.py")), checkpoint]
    done = subprocess.run(
        [*command, str(batch), str(side), str(SECONDS / 4)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **KEEP_MEMORY},  # As replicas have it.
    )
    return float(done.stdout)


def request_file(folder: Path, side: int) -> tuple[Path, str]:
    """Write one request's body; return where, and its content type."""
    random = np.random.default_rng(0)
    smooth = cv2.resize(random.integers(0, 256, (8, 8, 3), np.uint8), (side, side))
    hole = np.zeros((side, side), np.uint8)
    hole[side // 4 : side // 2, side // 4 : side // 2] = 255
    predicted = {"image": smooth, "mask": hole}
    files = {name: cv2.imencode(".png", one)[1].tobytes() for name, one in predicted.items()}
    request = httpx.Request("POST", "http://a/", files=files)
    place = folder / f"request-{side}"
    place.write_bytes(request.read())
    return place, request.headers["content-type"]


def load(url: str, body: Path, kind: str, callers: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).with_name("one_load.py")), f"{url}/v1/inpaint"]
    command += [str(body), kind, str(callers), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def plot(found: dict[int, dict[int, dict[str, float]]], best: dict[int, float]) -> None:
    """Draw latency over throughput: the knee is where more callers bring no more pictures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), layout="constrained", dpi=120)
    for panel, (side, loads) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        rates = [one["rate"] for one in loads.values()]
        medians = [one["median_ms"] for one in loads.values()]
        tails = [one["p99_ms"] for one in loads.values()]
        panel.plot(rates, medians, "o-", color="#4a6fa5", label="median")
        panel.plot(rates, tails, "s--", color="#c1403d", label="99th percentile")
        for rate, median, callers in zip(rates, medians, loads, strict=True):
            panel.annotate(
                str(callers), (rate, median), (0, 6), textcoords="offset points", fontsize=8
            )
        panel.axvline(best[side], color="#444", lw=1, ls=":", label="bare loop")
        panel.set_title(f"{side} px, by number of callers", fontsize=10)
        panel.set_xlabel("images/s")
        panel.set_ylabel("latency (ms)")
        panel.set_yscale("log")
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
    panel.legend()
    figure.savefig(PICTURE, format="png")


def offline_rate(checkpoint: str, shards: dict[int, str], folder: Path, side: int) -> float:
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
        config = BatchInferenceConfig(
            folder=place,
            out=str(folder / f"filled-{side}-{count}"),
            model=checkpoint,
            generate_masks=True,
            recipe=MaskConfig(recipe="box"),
            tiling=tile(side),
        )
        took[count] = inpaint_shards(model, config, lambda line: None).seconds
    few, many = sorted(took)
    return (many - few) / (took[many] - took[few])


def pictures(folder: Path, count: int, side: int) -> str:
    """Shard so many smooth pictures of the tile's size; return the set's place."""
    place, random = folder / f"pictures-{side}-{count}", np.random.default_rng(count)
    place.mkdir()
    for number in range(count):
        coarse = random.integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(place / f"{number:05d}.png"), cv2.resize(coarse, (side, side)))
    out = folder / f"shards-{side}-{count}"
    words = ["folder", "--source", str(place), "--splits", "shares", "--val-share", "0"]
    job("make_shards", *words, "--test-share", "0", "--out", str(out), "--min-side-px", "32")
    return f"{out}/train"


def measure(checkpoint: str, side: int, folder: Path) -> tuple[float, dict, str]:
    """Return the bare loop's pictures per second, the endpoint's figures by callers, and a text."""
    shards = {count: pictures(folder, count, side) for count in SIDES[side]}
    body, kind = request_file(folder, side)
    alone = {batch: bare(checkpoint, batch, side) for batch in BATCHES}
    best = max(BATCHES, key=lambda batch: batch / alone[batch])
    port = choose_port("127.0.0.1", 0)
    with connect(environment=direct_ingress(port)):
        config = ServeConfig(
            model=checkpoint,
            port=port,
            max_batch_size=best,
            tiling=tile(side),
            limits=LimitsConfig(max_waiting=64),
        )
        url = start(config)
        try:
            found = {callers: load(url, body, kind, callers) for callers in CALLERS}
        finally:
            stop()
        again = {batch: bare(checkpoint, batch, side) for batch in (1, best)}
        rate = best / ((alone[best] + again[best]) / 2)
        one_ms = 1e3 * (alone[1] + again[1]) / 2
        offline = offline_rate(checkpoint, shards, folder, side)
    added_ms = found[1]["median_ms"] - one_ms
    facts = (
        f"{side} px: the bare loop fills {rate:.1f} images/s at its best batch of {best}; one "
        f"image takes it {one_ms:.1f} ms, and one caller of the endpoint waits {added_ms:+.1f} "
        f"ms longer than that. Offline, shards to shards: {offline:.1f} images/s, "
        f"{offline / rate:.0%} of the bare loop."
    )
    print(facts, flush=True)
    return rate, found, facts


def test_serving(tmp_path: Path) -> None:
    checkpoint = untrained(NETWORK, tmp_path)
    best, loads, texts = {}, {}, [f"{machine()}. {NETWORK}, `cpu` preset."]
    header = ["Callers", "Images/s", "Of the bare loop", "Median, ms", "p99, ms", "Refused"]
    for side in SIDES:
        best[side], loads[side], facts = measure(checkpoint, side, tmp_path)
        rows = [
            [
                str(callers),
                f"{one['rate']:.1f}",
                f"{one['rate'] / best[side]:.0%}",
                f"{one['median_ms']:.1f}",
                f"{one['p99_ms']:.1f}",
                f"{one['refused']:.0f}",
            ]
            for callers, one in loads[side].items()
        ]
        texts += [facts, table(header, rows)]
    write_section("serving", "\n\n".join(texts))
    plot(loads, best)
