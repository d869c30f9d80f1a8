"""Estimates of cost, memory and time, against arithmetic by hand and against trainings."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infill.models.flops import size_of, step_flops
from infill.models.spn.config import SPNConfig
from infill.pipeline.config import override, parse_one, to_json
from infill.pipeline.cost_estimate import (
    INNER_GBIT_S,
    LEAST_SHARE,
    MOST_SHARE,
    PEAK_TFLOPS,
    CostEstimateConfig,
    decode_rate,
    estimate_cost,
    lines,
    measured,
)
from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig
from infill.pipeline.training import TrainConfig


@pytest.fixture
def training():
    data = BatchConfig(batch_size=8, image_size_px=32)
    return TrainConfig(model=SPNConfig.tiny(), data=data, steps=7200, num_workers=2)


@pytest.fixture
def run(tmp_path, training):
    """Write the records of a short run of that training."""
    (tmp_path / "config.json").write_text(to_json(training))
    reports = [(2, 1.0, 0.0), (10, 40.0, 0.5), (20, 90.0, 0.1), (30, 80.0, 0.0)]
    records = [
        {
            "kind": "losses",
            "step": step,
            "values": {"samples_per_s": rate, "data_wait_share": waited},
        }
        for step, rate, waited in reports
    ]
    records.append({"kind": "scores", "step": 30, "values": {"hole_psnr": 12.0}})
    text = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "progress-000000000.jsonl").write_text(text + '{"kind": "los')  # Killed meanwhile.
    return str(tmp_path)


def test_measured_rate_is_the_median_after_the_first_steps_without_waiting(run):
    # 40 / 0.5, 90 / 0.9 and 80 samples a second are 80, 100 and 80: the median of two workers.
    assert measured(run).value == pytest.approx(40.0)


def test_hours_cost_and_cores_follow_from_the_measured_rate(training, run):
    found = estimate_cost(
        CostEstimateConfig(
            train=training,
            run=run,
            images=28_800,
            image_kb=50.0,
            decodes_per_s=20.0,
            cores_per_worker=4.0,
            link_gbit_s=1e6,
            price_per_worker_hour=3.0,
            price_per_gb_month=0.1,
        )
    )
    # Shares of 4 samples: 0.1 s computing at 40 a second, 0.05 s decoding on four cores.
    assert found.compute_s == pytest.approx((0.1, 0.1))
    assert found.decode_s == pytest.approx(0.05)
    assert found.hours == pytest.approx((0.2, 0.2), rel=1e-3)
    assert found.cost == pytest.approx((1.2, 1.2), rel=1e-3)
    assert found.decode_cores_per_worker == pytest.approx(2.0)
    assert found.epochs == pytest.approx(2.0)
    assert found.shard_gb == pytest.approx(1.44)
    assert found.bottleneck == "computing"


def test_bottleneck_is_what_a_step_waits_for(training, run):
    config = CostEstimateConfig(train=training, run=run, images=100, decodes_per_s=20.0)
    assert estimate_cost(config).bottleneck == "computing"
    slow = estimate_cost(replace(config, cores_per_worker=1.0))
    assert slow.bottleneck == "decoding"
    assert slow.hours[0] == pytest.approx(0.2 * 7200 / 3600, rel=1e-2)
    narrow = estimate_cost(replace(config, link_gbit_s=1e-3, image_kb=50.0, workers_per_node=1))
    assert narrow.bottleneck in ("reading", "exchanging gradients")
    assert narrow.read_s == pytest.approx(8 * 50e3 / 125e3)  # each of two nodes reads all
    assert any(
        "shuffle-lanes 64" in line for line in lines(narrow, replace(config, workers_per_node=1))
    )
    lanes = override(config, {"train.data.shuffle_lanes": 12, "workers_per_node": 1})
    dealt = estimate_cost(replace(lanes, link_gbit_s=1e-3, image_kb=50.0))
    assert dealt.read_s == pytest.approx(narrow.read_s * 0.75)  # 1/2 + 3/12 of the set
    assert not any("shuffle-lanes" in line for line in lines(dealt, lanes))
    alone = estimate_cost(replace(config, train=replace(training, num_workers=1)))
    assert alone.exchange_s == 0


def test_without_a_run_hours_are_a_span_of_the_gpu_s_peak(training):
    found = estimate_cost(
        CostEstimateConfig(
            train=training, images=100, gpu="v100", decodes_per_s=1e6, link_gbit_s=1e3
        )
    )
    flops = 4 * step_flops(training.model, 32, 2, 3600)
    assert found.compute_s[0] == pytest.approx(flops / (MOST_SHARE * PEAK_TFLOPS["v100"] * 1e12))
    assert found.compute_s[1] / found.compute_s[0] == pytest.approx(MOST_SHARE / LEAST_SHARE)
    assert found.hours[0] < found.hours[1]


def test_arithmetic_of_a_step_is_that_of_its_convolutions(monkeypatch):
    """A generator of one convolution and no discriminator, counted by hand."""
    from infill.models import architecture
    from infill.models import flops as counting

    class One(architecture.Objective):
        def __init__(self):
            self.networks = {"generator": torch.nn.Conv2d(3, 5, 3, padding=1)}
            self.optimizers = {}

        def step(self, batch):
            assert batch.step == 3
            self.generator(batch.image).sum().backward()
            return {}

    class Paper:
        def objective(self, config, prepare):
            return One()

    monkeypatch.setattr(counting, "without_files", lambda config: config)
    monkeypatch.setattr(architecture, "load", lambda name: Paper())
    forward = 2 * 16 * 16 * 5 * 3 * 9
    # The backward pass computes the weights' gradients; the picture needs none.
    # Past the cache, as no other test may get this network's count.
    assert step_flops.__wrapped__(SPNConfig.tiny(), 16, 2, 3) == 2 * forward


def test_rates_of_a_shard_set_are_counted_and_measured(training, shards):
    data = replace(training.data, shards=shards)
    found = estimate_cost(CostEstimateConfig(train=replace(training, data=data)))
    assert "counted in" in found.sources["images"]
    assert "measured on a core" in found.sources["decoding"]
    assert found.epochs > 0
    assert 1 < decode_rate(data, seconds=0.2) < 1e6


def test_rates_of_tars_without_a_manifest_are_those_of_the_first(training, shards, tmp_path):
    tar = next(Path(shards, "train").glob("*.tar"))
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(tar.read_bytes() if number == 0 else b"not read")
    cache = {"shards": f"{tmp_path}/{{0..2}}.tar", "cache_folder": str(tmp_path / "cache")}
    data = replace(training.data, **cache)
    found = estimate_cost(CostEstimateConfig(train=replace(training, data=data)))
    assert "estimated from the first of 3 tars" in found.sources["images"]
    assert "measured on a core" in found.sources["decoding"]


def test_what_cannot_be_planned_is_refused(training, run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="has reported no rate after its first 5 steps"):
        measured(str(empty))
    with pytest.raises(UserError, match=r"cores_per_worker must be more than 0: 0"):
        CostEstimateConfig(train=training, cores_per_worker=0.0)
    with pytest.raises(UserError, match="images must not be negative: -1"):
        CostEstimateConfig(train=training, images=-1)


def test_lines_say_where_each_figure_is_from(training, run):
    config = CostEstimateConfig(train=training, run=run, images=100, price_per_worker_hour=2.0)
    text = "\n".join(lines(estimate_cost(config), config))
    assert "7,200 steps of 8 samples on 2 workers" in text
    assert "measured by" in text
    assert "assumed; --train.data.shards measures" in text
    assert "cost" in text


def test_eight_workers_of_one_node_exchange_over_its_own_links(training):
    """Two of them on a slow network: one node is fast, two nodes are not."""
    eight = replace(training, num_workers=8)
    config = CostEstimateConfig(train=eight, gpu="h100", decodes_per_s=1e6, images=10)
    size = size_of(training.model)
    gradients = 4 * (size.generator + size.discriminators)
    near = estimate_cost(config)
    assert near.exchange_s == pytest.approx(2 * 7 / 8 * gradients / (3600e9 / 8))
    apart = estimate_cost(replace(config, workers_per_node=4))
    within, between = 2 * 3 / 4 * gradients / (3600e9 / 8), 2 * 1 / 2 * gradients / (10e9 / 8)
    assert apart.exchange_s == pytest.approx(within + between)
    given = estimate_cost(replace(config, intra_node_gbit_s=100.0))
    assert given.exchange_s == pytest.approx(2 * 7 / 8 * gradients / (100e9 / 8))
    assert set(INNER_GBIT_S) == set(PEAK_TFLOPS)
    for gpu in PEAK_TFLOPS:
        parse_one(CostEstimateConfig, "", ["--gpu", gpu], default=config)


def test_the_plan_names_what_decides_it_and_its_currency(training, run):
    config = CostEstimateConfig(
        train=training,
        images=100,
        decodes_per_s=1e6,
        link_gbit_s=1e6,
        intra_node_gbit_s=1e6,
        price_per_worker_hour=2.0,
        currency="EUR",
    )
    text = "\n".join(lines(estimate_cost(config), config))
    assert "bottleneck  computing\nassumption  the GPU (V100) sustains 5% to 90%" in text
    assert "EUR for the workers" in text
    slow = replace(config, decodes_per_s=1.0)
    assert "assumption  as given, on 8 cores" in "\n".join(lines(estimate_cost(slow), slow))
    narrow = replace(config, link_gbit_s=1e-6, workers_per_node=1)
    assert "1e-06 Gbit/s for a node's network" in estimate_cost(narrow).deciding
    known = replace(config, run=run)
    assert estimate_cost(known).deciding == f"none for computing: {run} was measured"


@pytest.mark.parametrize("name", ["spn", "madf", "lama", "deepfill2"])
def test_a_step_is_counted_without_computing_it(name):
    """A thousand images of 512 px would need terabytes."""
    job = importlib.import_module(f"infill.jobs.train_{name}")
    model = job.PRESETS["smoke"].model
    few, many = (step_flops(model, 512, samples) for samples in (2, 1000))
    assert many == pytest.approx(few, rel=0.01)
    assert many > 1e9
