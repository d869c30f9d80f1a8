"""Cost estimates of jobs/plan.py beside the papers' trainings and one on this machine; lanes.

make bench ONLY=planning
"""

import importlib
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from bench_data import job
from pages import machine, table, write_section

from infill.pipeline.cluster import connect
from infill.pipeline.config import override
from infill.pipeline.cost_estimate import PEAK_TFLOPS, CostEstimateConfig, estimate_cost
from infill.pipeline.loading import StatelessSampler
from infill.pipeline.loading.lanes import share_per_node
from infill.pipeline.progress import duration
from infill.pipeline.reading_estimate import NodeReads
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.training import train

PUBLISHED = (
    # Preset, GPU, how many, hours: as the papers or their sheets print them.
    ("spn", "paris", "v100", 2, 24.0),
    ("madf", "places2", "v100", 8, 120.0),
    ("deepfill", "places2", "1080ti", 1, 120.0),
    ("deepgin", "ade20k", "2080ti", 2, 60.0),
    ("deepgin", "celebahq", "2080ti", 2, 144.0),
)
SHORT_STEPS, LONG_STEPS = 30, 400
PLACES2 = [1000] * 1803 + [460]
"""Samples per shard of Places2's training set."""


def test_papers() -> None:
    """Hours at the least and the most share of the peak, beside those that were published."""
    rows = []
    for name, preset, gpu, count, hours in PUBLISHED:
        training = importlib.import_module(f"infill.jobs.train_{name}").PRESETS[preset]
        training = replace(training, num_workers=count)
        config = CostEstimateConfig(
            train=training, gpu=gpu, images=1, decodes_per_s=1e6, link_gbit_s=100
        )
        found = estimate_cost(config)
        at_peak = found.compute_s[0] * 0.9 * training.steps / 3600
        rows.append(
            [
                f"{name} {preset}",
                f"{count} x {gpu} ({PEAK_TFLOPS[gpu]:g} TFLOP/s)",
                f"{found.hours[0]:,.1f} to {found.hours[1]:,.0f}",
                f"{hours:,.0f}",
                f"{at_peak / hours:.0%}",
            ]
        )
    header = ["training", "GPUs", "hours planned", "hours published", "share of the peak sustained"]
    write_section("planning-papers", table(header, rows))
    print(table(header, rows))


def test_this_machine(tmp_path) -> None:
    """The hours of a longer run, estimated from a short one, beside its real hours."""
    job("make_shards", "demo", "--out", str(tmp_path / "shards"))
    rows = []
    for name in ("spn", "pennet"):
        preset = importlib.import_module(f"infill.jobs.train_{name}").PRESETS["cpu"]
        changes = {
            "data.shards": str(tmp_path / "shards"),
            "tracking": TrackingConfig(tracking_uri=""),
            "num_workers": 2,
        }
        base = override(preset, changes)
        with connect():
            short = {"steps": SHORT_STEPS, "report_every_steps": 5}
            train(override(base, {**short, "storage": str(tmp_path / f"{name}-short")}))
            long = override(base, {"steps": LONG_STEPS, "storage": str(tmp_path / f"{name}-long")})
            config = CostEstimateConfig(
                train=long, run=str(tmp_path / f"{name}-short"), cores_per_worker=1
            )
            estimated = estimate_cost(config).hours[0] * 3600
            begin = time.monotonic()
            train(long)
            took = time.monotonic() - begin
        rows.append([name, duration(estimated), duration(took), f"{estimated / took:.2f}"])
    header = [f"`cpu`, {LONG_STEPS} steps, 2 workers", "estimated", "took, start included", "ratio"]
    write_section("planning", f"{table(header, rows)}\n\n{machine()}.")
    print(table(header, rows))


def test_lanes() -> None:
    """What a node reads of Places2, and how well it is shuffled: by the sampler's own order."""
    rows = []
    for nodes, batch in ((8, 512), (32, 2048), (256, 8192)):
        for lanes, window in ((1, 8), (64, 2), (256, 2), (1024, 1)):
            order = StatelessSampler(PLACES2, 0, window, lanes)
            read = worst_share(order, nodes, batch)
            near, same = neighbours(order)
            rows.append(
                [
                    f"{nodes} nodes, {lanes} x {window}",
                    f"{read:.1%}",
                    f"{share_per_node(nodes, lanes):.1%}",
                    f"{near:.3f}",
                    f"{same:.2%}",
                ]
            )
    full = np.random.default_rng(0).permutation(sum(PLACES2))
    near, same = distances(full, np.repeat(np.arange(len(PLACES2)), PLACES2)[full])
    rows.append(["full shuffle", "100.0%", "", f"{near:.3f}", f"{same:.2%}"])
    header = [
        "nodes, lanes x window",
        "set read by a node per epoch",
        "estimate",
        "distance of neighbours",
        "neighbours of one shard",
    ]
    write_section("lanes", table(header, rows))
    print(table(header, rows))


def test_reading() -> None:
    """Images per second that a node's network, the store and its cores allow."""
    rows = []
    for nodes in (8, 32, 256, 1000):
        cells = [str(nodes)]
        for lanes, requests in ((1, 5), (min(4 * nodes, 1803), 2)):
            reads = NodeReads(
                nodes=nodes,
                lanes=lanes,
                images=sum(PLACES2),
                image_kb=40,
                images_per_shard=1000,
                requests_per_shard=requests,
                link_gbit_s=10,
                decode_cores=64,
                decodes_per_s=300,
            )
            limit, rate = reads.limit()
            gb_s = rate * reads.read_per_image * reads.image_kb / 1e6
            cells += [f"{rate:,.0f} ({limit})", f"{gb_s:.2f}"]
        rows.append(cells)
    header = [
        "nodes",
        "one lane: images/s a node",
        "GB/s read",
        "lanes: images/s a node",
        "GB/s read",
    ]
    write_section("reading", table(header, rows))
    print(table(header, rows))


def worst_share(order: StatelessSampler, nodes: int, batch: int) -> float:
    """Return the largest share of a set that a node reads in an epoch."""
    if order.lanes == 1:
        return 1.0
    steps = order.total // batch
    read = [set() for _ in range(nodes)]
    for step in range(steps):
        samples, share = order.batch(step, batch), batch // nodes
        for node in range(nodes):
            read[node] |= set(order.windows(samples[node * share :][:share]))
    counts = np.asarray(PLACES2)
    return max(
        sum(int(counts[order.shards(window)].sum()) for window in windows) / order.total
        for windows in read
    )


def neighbours(order: StatelessSampler) -> tuple[float, float]:
    """Return the measures of :func:`distances` for an epoch's order."""
    rows = np.array([row for _, row in order.span(0, order.total)])
    return distances(rows, np.repeat(np.arange(len(PLACES2)), PLACES2)[rows])


def distances(rows: Sequence[int], shards: Sequence[int]) -> tuple[float, float]:
    """Return the mean distance of neighbours, in shares of the set, and how many share a shard."""
    apart = np.abs(np.diff(rows)).mean() / len(rows)
    return float(apart), float((np.diff(shards) == 0).mean())
