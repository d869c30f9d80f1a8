"""How time grows: with images, samples, nodes, pixels and callers, and the exponent of growth.

make bench ONLY=growth
GROWTH=0.01 make bench ONLY=growth  # a hundredth of the amounts

An exponent of 1 means linear, 0 means that the amount does not matter. It is the slope of a line
through the logarithms, fixed costs included, so that it approaches 1 from below where a start is.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from bench_data import draw_small_photographs, seconds_of, sharding
from bench_evaluation import untrained
from bench_serving import load, request_file, tile
from conditions import turns
from pages import machine, table, write_section

from infill.pipeline.cluster import connect
from infill.pipeline.inference import TilingConfig
from infill.pipeline.inference import load as load_inpainter
from infill.pipeline.loading import StatelessSampler
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.serving.replica.deployment import choose_port, direct_ingress, start, stop

SHARE = float(os.environ.get("GROWTH", "1"))
IMAGES = (2_000, 8_000, 32_000)
SAMPLES = (100_000, 1_000_000, 10_000_000)
NODES = (8, 64, 512)
SIDES_PX = (512, 1024, 2048)
CALLERS = (1, 4, 16)
SIDE_PX = 64
HEADER = ["Stage", "What grows", "Amounts", "Seconds", "Exponent"]


def exponent(amounts: list[float], seconds: list[float]) -> float:
    """Return the slope of the line through the logarithms of amounts and seconds."""
    slope, _ = np.polyfit(np.log(amounts), np.log(seconds), 1)
    return float(slope)


def scaled(amounts: tuple[int, ...], least: int = 1) -> list[int]:
    """Return the amounts of this run, each at least ``least`` and larger than the one before."""
    found: list[int] = []
    for amount in amounts:
        found.append(max(round(amount * SHARE), 2 * found[-1] if found else least))
    return found


def fastest(works: dict[int, Callable[[], object]]) -> list[float]:
    """Return each amount's least seconds, measured in turns."""
    best = dict.fromkeys(works, float("inf"))
    for amount in turns(list(works)):
        begin = time.perf_counter()
        works[amount]()
        best[amount] = min(best[amount], time.perf_counter() - begin)
    return list(best.values())


def row(stage: str, grows: str, amounts: list[int], seconds: list[float]) -> list[str]:
    """Return a row of the table."""
    return [
        stage,
        grows,
        ", ".join(f"{amount:,}" for amount in amounts),
        ", ".join(f"{one:.3g}" for one in seconds),
        f"{exponent([float(amount) for amount in amounts], seconds):.2f}",
    ]


def of_images(folder: Path) -> list[str]:
    """Shard more and more photographs, the start of Ray included."""
    amounts, seconds = scaled(IMAGES, 20), []
    for count in amounts:
        draw_small_photographs(folder / f"{count}", count)
        seconds.append(seconds_of(sharding(folder / f"{count}", folder / f"set-{count}")))
    return row("sharding, 64 px", "images", amounts, seconds)


def first_batches(samples: int, nodes: int) -> None:
    """Deal an epoch to nodes, and find the first batch of each of eight of them."""
    sampler = StatelessSampler([1000] * (samples // 1000) + [samples % 1000 or 1000], 0, 2, 64)
    for rank in range(min(nodes, 8)):
        sampler.batch(0, 16 * nodes, rank, nodes)


def of_samples() -> list[str]:
    """Order the samples of larger and larger sets."""
    amounts = scaled(SAMPLES, 70_000)
    works = {count: partial(first_batches, count, 8) for count in amounts}
    return row("order of an epoch, 8 nodes", "samples", amounts, fastest(works))


def of_nodes() -> list[str]:
    """Deal the same set to more and more nodes."""
    amounts, samples = list(NODES), scaled(SAMPLES, 70_000)[1]
    works = {count: partial(first_batches, samples, count) for count in amounts}
    return row(f"order of {samples:,} samples", "nodes", amounts, fastest(works))


def of_pixels() -> list[str]:
    """Inpaint larger and larger photographs with holes of a sixteenth, in tiles."""
    inpaint = load_inpainter("infill-base")
    inpaint.tiling = TilingConfig(sides_px=(256,), least_crop_px=256)
    works: dict[int, Callable[[], object]] = {}
    for side in scaled(SIDES_PX, 256):
        coarse = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        hole = np.zeros((side, side), bool)
        hole[side // 4 : side // 2, side // 4 : side // 2] = True
        works[side * side] = partial(inpaint, coarse, hole, mode="tile")
    return row("inpainting in tiles", "pixels", list(works), fastest(works))


def of_callers(folder: Path) -> list[str]:
    """Send requests from more and more callers; seconds are those of a request, the median."""
    checkpoint = untrained("unet", folder)
    body, kind = request_file(folder, SIDE_PX)
    port = choose_port("127.0.0.1", 0)
    with connect(environment=direct_ingress(port)):
        config = ServeConfig(
            model=checkpoint,
            port=port,
            tiling=tile(SIDE_PX),
            limits=LimitsConfig(max_waiting=64),
        )
        url = start(config)
        try:
            found = [load(url, body, kind, callers)["median_ms"] / 1e3 for callers in CALLERS]
        finally:
            stop()
    return row(f"request, {SIDE_PX} px", "callers", list(CALLERS), found)


def test_growth(tmp_path: Path) -> None:
    rows = []
    stages = [of_samples, of_nodes, of_pixels, partial(of_images, tmp_path)]
    for stage in [*stages, partial(of_callers, tmp_path)]:
        rows.append(stage())
        print(*rows[-1], sep="  ", flush=True)
    write_section("exponents", f"{table(HEADER, rows)}\n\n{machine()}.")
