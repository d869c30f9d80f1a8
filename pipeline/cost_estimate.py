"""Estimate the hours, cost, storage and decoding CPUs of a training, and its bottleneck.

Rates come from a measured run if there is one, and otherwise from arithmetic; each line names its
source. Arithmetic gives a range, not a figure: the papers' own trainings sustained between 5 and 90
% of their GPUs' peak (``make bench ONLY=planning``).
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import median
from typing import Literal

from infill.models.config import ModelConfig
from infill.pipeline import loading, storage, training
from infill.pipeline.config import from_json
from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig
from infill.pipeline.loading.lanes import share_per_node
from infill.pipeline.loading.tar_names import expand
from infill.pipeline.manifest import Manifest, read_manifest
from infill.pipeline.training import TrainConfig

PEAK_TFLOPS = {
    "1080ti": 11.3,
    "2080ti": 13.4,
    "v100": 15.7,
    "a100": 156.0,
    "l4": 60.0,
    "a10g": 35.0,
    "l40s": 183.0,
    "h100": 494.0,
    "h200": 494.0,
    "b200": 1100.0,
    "mi300x": 653.7,
}
"""Peak TFLOP/s by the data sheets, dense: float32 up to the V100, TF32 on tensor cores later."""
INNER_GBIT_S = {
    "1080ti": 126.0,
    "2080ti": 126.0,
    "v100": 1200.0,
    "a100": 2400.0,
    "l4": 252.0,
    "a10g": 252.0,
    "l40s": 252.0,
    "h100": 3600.0,
    "h200": 3600.0,
    "b200": 7200.0,
    "mi300x": 3584.0,
}
"""Gbit/s between the GPUs of a node, one way: NVLink or Infinity Fabric of the boards with eight
GPUs, PCIe (3.0 x16 for 1080 Ti and 2080 Ti, 4.0 x16 for L4, A10G and L40S) otherwise."""
Gpu = Literal[
    "1080ti",
    "2080ti",
    "v100",
    "a100",
    "l4",
    "a10g",
    "l40s",
    "h100",
    "h200",
    "b200",
    "mi300x",
]
"""The GPUs whose data sheets are known."""
BYTES_PER_PARAMETER = 16
"""Bytes per parameter in float32: the weight, its gradient and Adam's two means."""
GIB = 2**30
LEAST_SHARE, MOST_SHARE = 0.05, 0.9
"""Shares of the peak that the papers' own trainings sustained, from MADF's to SPN's."""
ASSUMED_DECODES_PER_S = 150.0
"""Images of 256 px that one core reads, decodes, crops and masks per second."""
ASSUMED_IMAGE_KB = 40.0
"""Size of an image of 256 px in a shard, in kB."""
DECODE_FOR_S = 3.0
STEPS_TO_WARM_UP = 5
KB, GB = 1e3, 1e9
MONTH_H = 730.0


@dataclass(frozen=True, kw_only=True)
class CostEstimateConfig:
    """A training, the hardware it runs on, and measured rates where there are any."""

    train: TrainConfig
    """The training whose cost is estimated."""
    images: int = 0
    """Number of images in the training set; 0 counts those of ``train.data.shards``."""
    image_kb: float = 0.0
    """Average size of an image in its shard, in KB; 0 measures the shards, or assumes a size if
    there are none."""
    run: str = ""
    """A short run of the same training on the same kind of machine. If given, its measured rate
    replaces the estimate."""
    gpu: Gpu = "v100"
    """The GPU whose peak performance bounds the estimate if there is no measured run."""
    decodes_per_s: float = 0.0
    """Images that one core decodes per second; 0 measures it here with the shards, or assumes a
    rate."""
    cores_per_worker: float = 8.0
    """Number of CPU cores that decode for each worker."""
    workers_per_node: int = 8
    """Number of workers on a node: they share its network, and exchange gradients within it
    first."""
    link_gbit_s: float = 10.0
    """Bandwidth of a node's network in Gbit/s. The gradients of all its workers cross it once a
    step if there are several nodes; so does its share of the shards."""
    intra_node_gbit_s: float = 0.0
    """Bandwidth between the GPUs of a node in Gbit/s, one way; 0 takes that of the GPU's data
    sheet."""
    price_per_worker_hour: float = 0.0
    """Price of one GPU with its share of the node per hour, in ``currency``; 0 leaves costs
    out."""
    price_per_gb_month: float = 0.0
    """Price of storage per GB and month, in ``currency``."""
    currency: str = "USD"
    """Currency of the prices, for the output."""

    def __post_init__(self) -> None:
        for name in ("images", "image_kb", "decodes_per_s"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative: {getattr(self, name)}")
        if self.intra_node_gbit_s < 0:
            raise UserError(f"intra_node_gbit_s must not be negative: {self.intra_node_gbit_s}")
        for name in ("cores_per_worker", "link_gbit_s", "workers_per_node"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be more than 0: {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A rate per second, and the source of the figure."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class ComputeEstimate:
    """The arithmetic, memory and computing time of a training."""

    workers: int
    sample_flops: float
    """FLOPs of a step per sample: forward and backward pass of every network in use."""
    memory_bytes: int
    """Memory of a worker: weights, gradients, optimizer and the generator's activations."""
    step_s: tuple[float, float]
    """Seconds that a worker computes per step, at best and at worst; equal if measured."""
    hours: tuple[float, float]
    """Hours of computing for all steps, at best and at worst."""
    source: str
    """Source of the time."""


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """The estimate of a training. Times are of one step unless stated otherwise."""

    compute: ComputeEstimate
    workers: int
    steps: int
    epochs: float
    """Number of epochs; 0 if the number of images is unknown."""
    compute_s: tuple[float, float]
    """Seconds at best and at worst; equal if measured."""
    decode_s: float
    """Seconds to decode a worker's share, on its cores."""
    exchange_s: float
    """Seconds to sum the gradients of all workers, within nodes and between them."""
    read_s: float
    """Seconds in which a node reads over its link what it needs of a batch."""
    read_share: float
    """Share of the set that each node reads per epoch."""
    hours: tuple[float, float]
    cost: tuple[float, float]
    shard_gb: float
    checkpoint_gb: float
    """Size of all checkpoints that are kept at a time, in GB."""
    storage_cost_per_month: float
    decode_cores_per_worker: float
    """Number of cores that keep a worker busy when it computes at its best."""
    bottleneck: str
    """The stage that limits a step at its best."""
    deciding: str
    """The assumption on which that stage's time depends most."""
    sources: dict[str, str] = field(default_factory=dict)
    """Source of each rate."""


def estimate_compute(config: CostEstimateConfig) -> ComputeEstimate:
    """Estimate FLOPs, memory and computing time; ``--dry-run`` and ``jobs/plan.py`` print them.

    Raises:
        UserError: if the measured run does not exist, or is too short.
    """
    from infill.models.flops import size_of

    config = replace(config, train=training.scaled(config.train))
    train = config.train
    workers = max(train.num_workers, 1)
    share = train.data.batch_size // workers
    size = size_of(train.model)
    flops = _sample_flops(train)
    step_s, source = _compute(config, flops, train.data.batch_size / workers)
    maps = activations(train) * max(1, share // train.accumulate)
    return ComputeEstimate(
        workers=workers,
        sample_flops=flops,
        memory_bytes=(size.generator + size.discriminators) * BYTES_PER_PARAMETER + maps,
        step_s=step_s,
        hours=(train.steps * step_s[0] / 3600, train.steps * step_s[1] / 3600),
        source=source,
    )


def compute_lines(found: ComputeEstimate) -> list[str]:
    """Return FLOPs, memory and computing time, a line each."""
    gpu_hours = (found.workers * found.hours[0], found.workers * found.hours[1])
    return [
        f"arithmetic  {found.sample_flops / 1e9:,.3g} GFLOP a sample and step, all networks, "
        "forward and backward",
        f"memory      about {found.memory_bytes / GIB:.1f} GiB a worker for weights, gradients, "
        "optimizer and the generator's maps; other networks' maps come on top",
        f"computing   {span(gpu_hours)} GPU-hours: {found.source}",
    ]


def estimate_cost(config: CostEstimateConfig) -> CostEstimate:
    """Estimate the time, cost and storage of a training.

    A step takes the longest of computing, decoding and reading, which overlap, and then the
    exchange of gradients, which is counted as not overlapping.

    Raises:
        UserError: if the measured run does not exist, or is too short.
    """
    from infill.models.flops import size_of

    config = replace(config, train=training.scaled(config.train))
    train = config.train
    workers = max(train.num_workers, 1)
    share = train.data.batch_size / workers
    compute = estimate_compute(config)
    images, kb, stored = _images(config)
    decode = _decodes(config)
    size = size_of(train.model)
    parameters = size.generator + size.discriminators
    nodes = -(-workers // config.workers_per_node)
    read_share = share_per_node(nodes, train.data.shuffle_lanes)
    decode_s = share / (decode.value * config.cores_per_worker)
    read = train.data.batch_size / train.data.masks_per_image * read_share  # by each node
    read_s = read * kb * KB / (config.link_gbit_s * GB / 8)
    exchange_s = _exchange_s(config, workers, parameters * 4)
    waits = {"computing": compute.step_s[0], "decoding": decode_s, "reading": read_s}
    step_s = [max(seconds, decode_s, read_s) + exchange_s for seconds in compute.step_s]
    hours = (train.steps * step_s[0] / 3600, train.steps * step_s[1] / 3600)
    price = workers * config.price_per_worker_hour
    shard_gb = images * kb * KB / GB
    averaged = size.generator * 4 if train.ema_decay else 0
    kept = train.keep_checkpoints + 1  # And the best.
    checkpoint_gb = kept * (parameters * (BYTES_PER_PARAMETER - 4) + averaged) / GB
    slowest = max(waits, key=lambda name: waits[name])
    bottleneck = "exchanging gradients" if exchange_s > waits[slowest] else slowest
    return CostEstimate(
        compute=compute,
        workers=workers,
        steps=train.steps,
        epochs=train.steps * train.data.batch_size / train.data.masks_per_image / images
        if images
        else 0.0,
        compute_s=compute.step_s,
        decode_s=decode_s,
        exchange_s=exchange_s,
        read_s=read_s,
        read_share=read_share,
        hours=hours,
        cost=(hours[0] * price, hours[1] * price),
        shard_gb=shard_gb,
        checkpoint_gb=checkpoint_gb,
        storage_cost_per_month=(shard_gb + checkpoint_gb) * config.price_per_gb_month,
        decode_cores_per_worker=share / decode.value / compute.step_s[0],
        bottleneck=bottleneck,
        deciding=_deciding(config, bottleneck, workers, decode.source),
        sources={"computing": compute.source, "decoding": decode.source, "images": stored},
    )


def _exchange_s(config: CostEstimateConfig, workers: int, gradient_bytes: float) -> float:
    """Return the seconds of a sum over workers: rings within each node, then between nodes.

    In a ring of n, each gradient leaves and enters every member (n - 1) / n times for each half of
    the sum. Between nodes, the ring's members are whole nodes.
    """
    on_node = min(workers, config.workers_per_node)
    nodes = -(-workers // config.workers_per_node)
    inner = (config.intra_node_gbit_s or INNER_GBIT_S[config.gpu]) * GB / 8
    within = 2 * (on_node - 1) / on_node * gradient_bytes / inner
    return within + 2 * (nodes - 1) / nodes * gradient_bytes / (config.link_gbit_s * GB / 8)


def _deciding(config: CostEstimateConfig, bottleneck: str, workers: int, decode_source: str) -> str:
    """Return the assumption that decides the bottleneck's time, and how to replace it."""
    if bottleneck == "computing":
        if config.run:
            return f"none for computing: {config.run} was measured"
        return (
            f"the GPU ({config.gpu.upper()}) sustains {LEAST_SHARE:.0%} to {MOST_SHARE:.0%} "
            "of its peak; --run with a short run on that GPU measures it"
        )
    if bottleneck == "decoding":
        return f"{decode_source}, on {config.cores_per_worker:g} cores (--cores-per-worker)"
    if bottleneck == "reading" or workers > config.workers_per_node:
        return f"{config.link_gbit_s:g} Gbit/s for a node's network (--link-gbit-s)"
    inner = config.intra_node_gbit_s or INNER_GBIT_S[config.gpu]
    return f"{inner:g} Gbit/s between the GPUs of a node (--intra-node-gbit-s)"


def _compute(
    config: CostEstimateConfig, sample_flops: float, share: float
) -> tuple[tuple[float, float], str]:
    """Return the seconds a worker computes per step, at best and at worst, and their source."""
    if config.run:
        rate = measured(config.run)
        return (share / rate.value, share / rate.value), rate.source
    flops = share * sample_flops
    peak = PEAK_TFLOPS[config.gpu] * 1e12
    source = (
        f"{flops / share / 1e9:,.0f} GFLOP a sample at {LEAST_SHARE:.0%} to {MOST_SHARE:.0%} of "
        f"{PEAK_TFLOPS[config.gpu]:g} TFLOP/s ({config.gpu.upper()}); "
        "a short run, given as --run, is exact"
    )
    return (flops / (MOST_SHARE * peak), flops / (LEAST_SHARE * peak)), source


def _sample_flops(train: TrainConfig) -> float:
    """Count a step half way through the training, of as few samples as its objective takes."""
    from infill.models.flops import step_flops

    batch = train.data.batch_size
    for samples in range(min(2, batch), batch + 1):
        if batch % samples == 0:
            try:
                side, step = train.data.image_size_px, train.steps // 2
                return step_flops(train.model, side, samples, step)
            except ValueError:
                continue  # Slices for several updates, say.
    raise UserError(f"no step of at most {batch} samples can be taken: correct data.batch_size")


def measured(run: str) -> Rate:
    """Return the samples per second that each worker of a run computed, without data waits.

    It is the median of the run's reports, after its first steps.

    Raises:
        UserError: if the run does not exist, or is too short.
    """
    run = storage.absolute(run)
    reports = list(_reports(run))
    if len(reports) < 2:
        raise UserError(
            f"{run} has reported no rate after its first {STEPS_TO_WARM_UP} steps: train it for a "
            "few more (--steps) with a smaller --report-every-steps"
        )
    workers = max(_config_of(run).num_workers, 1)
    rate = median(
        values["samples_per_s"] / (1 - min(values.get("data_wait_share", 0.0), 0.99))
        for values in reports
    )
    return Rate(value=rate / workers, source=f"{rate / workers:.3g} samples/s measured by {run}")


def _reports(run: str) -> Iterator[dict[str, float]]:
    for name in storage.names(run):
        if name.startswith("progress-") and name.endswith(".jsonl"):
            text = storage.read(storage.join(run, name)).decode()
            for line in text[: text.rfind("\n") + 1].splitlines():  # A killed run's last is cut.
                record = json.loads(line)
                if "samples_per_s" in record["values"] and record["step"] > STEPS_TO_WARM_UP:
                    yield record["values"]


def _config_of(run: str) -> TrainConfig:
    try:
        text = storage.read(storage.join(run, "config.json")).decode()
    except OSError as error:
        raise UserError(f"{run} is not a run: it has no config.json") from error
    return from_json(TrainConfig, text)


def _images(config: CostEstimateConfig) -> tuple[int, float, str]:
    """Return the number of images, their size in kB, and the source of these figures."""
    images, kb, source = config.images, config.image_kb, "as given"
    if config.train.data.shards and not (images and kb):
        shards = config.train.data.shards
        manifest, tars = _measured_set(config.train.data)
        size = sum(shard.size for shard in manifest.shards)
        images, kb = images or len(manifest) * tars, kb or size / len(manifest) / KB
        how = f"estimated from the first of {tars} tars" if tars > 1 else "counted"
        source = f"{images:,} of {kb:.0f} kB, {how} in {shards}"
    if not images:
        source = "unknown: give --images or --train.data.shards"
    return images, kb or ASSUMED_IMAGE_KB, source


def _measured_set(data: BatchConfig) -> tuple[Manifest, int]:
    """Return the manifest of a training set and 1, or an index of its first tar and their number.

    All tars of a WebDataset without a manifest would take long to read.
    """
    training_set = training.find_sets(data.shards)[0]
    if not loading.names_tars(training_set):
        return read_manifest(training_set), 1
    tars = expand(training_set)
    return loading.open_set(tars[0], data), len(tars)


def _decodes(config: CostEstimateConfig) -> Rate:
    """Return how many images a core decodes per second."""
    if config.decodes_per_s:
        return Rate(value=config.decodes_per_s, source="as given")
    if not config.train.data.shards:
        source = f"{ASSUMED_DECODES_PER_S:g} images/s a core assumed; --train.data.shards measures"
        return Rate(value=ASSUMED_DECODES_PER_S, source=source)
    rate = decode_rate(config.train.data)
    return Rate(value=rate, source=f"{rate:.0f} images/s measured on a core of this machine")


def decode_rate(data: BatchConfig, seconds: float = DECODE_FOR_S) -> float:
    """Measure how many samples a second one thread reads, decodes, crops and masks here."""
    manifest, _ = _measured_set(data)
    maker = loading.InpaintingDataset(replace(data, shards=manifest.location), manifest)
    maker.make(0, 0, 0, 0)  # Opens the first shard.
    begin, made = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        maker.make(made % len(manifest), 0, made, 0)
        made += 1
    return made / (time.perf_counter() - begin)


def activations(config: TrainConfig) -> int:
    """Return the bytes that one sample's forward pass keeps for the backward pass."""
    kept = _kept_bytes(config.model, config.data.image_size_px, config.recompute)
    return kept if config.precision == "float32" else kept // 2


@lru_cache(maxsize=256)
def _kept_bytes(config: ModelConfig, side_px: int, recomputing: bool) -> int:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from infill.models.activation_checkpointing import recompute
    from infill.models.architecture import inputs_of, load
    from infill.models.flops import kept_for_backward, without_files

    paper, model = load(config.architecture), without_files(config)
    with FakeTensorMode():
        generator = paper.generator(model)
        if recomputing:
            recompute(generator, paper.blocks)
        image, mask = torch.zeros(1, 3, side_px, side_px), torch.zeros(1, 1, side_px, side_px)
        _, kept = kept_for_backward(generator, *inputs_of(model, image, mask))
    return kept


def lines(found: CostEstimate, config: CostEstimateConfig) -> list[str]:
    """Return the estimate, a line each."""
    epochs = f", {found.epochs:,.1f} epochs" if found.epochs else ""
    shown = [
        f"{found.steps:,} steps of {config.train.data.batch_size} samples on {found.workers} "
        f"workers{epochs}",
        *compute_lines(found.compute),
        f"hours       {span(found.hours)}",
        f"a step      {span(found.compute_s)} s computing, {found.decode_s:.3g} s decoding on "
        f"{config.cores_per_worker:g} cores, {found.read_s:.3g} s reading, "
        f"{found.exchange_s:.3g} s exchanging gradients over {_links(config, found.workers)}",
        f"bottleneck  {found.bottleneck}",
        f"assumption  {found.deciding}",
        f"decoding    {found.decode_cores_per_worker:.1f} cores keep a worker busy",
        f"reading     {_reads(found, config)}",
        f"storage     {found.shard_gb:,.1f} GB of shards, {found.checkpoint_gb:.2f} GB of "
        "checkpoints at once",
    ]
    if config.price_per_worker_hour:
        shown.append(f"cost        {span(found.cost)} {config.currency} for the workers")
    if config.price_per_gb_month:
        month = f"{found.storage_cost_per_month:,.2f} {config.currency} a month for storage"
        shown.append(f"            {month}")
    return shown + [f"  {name}: {source}" for name, source in found.sources.items()]


def _reads(found: CostEstimate, config: CostEstimateConfig) -> str:
    """Return what a node reads, with advice if several nodes read the whole set each."""
    read = f"each node reads {found.read_share:.0%} of the set per epoch"
    if found.shard_gb:
        read += f", {found.read_share * found.shard_gb:,.1f} GB"
    if found.workers > config.workers_per_node and config.train.data.shuffle_lanes == 1:
        read += "; --train.data.shuffle-lanes 64 divides the set among the nodes"
    return read


def _links(config: CostEstimateConfig, workers: int) -> str:
    inner = f"{config.intra_node_gbit_s or INNER_GBIT_S[config.gpu]:g} Gbit/s in a node"
    if workers <= config.workers_per_node:
        return inner
    return f"{inner} and {config.link_gbit_s:g} Gbit/s between nodes"


def span(values: tuple[float, float]) -> str:
    """Return a range of numbers, or the number if both are equal."""
    low, high = (f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values)
    return low if low == high else f"{low} to {high}"
