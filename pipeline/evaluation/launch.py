"""Run an evaluation over the cluster, and report its progress."""

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from infill.models.architecture import ModelConfig, SamplingGenerator, load
from infill.pipeline import checkpoints, storage
from infill.pipeline.attempts import counted_attempts
from infill.pipeline.cluster import quiet_data
from infill.pipeline.config import from_dict, to_dict
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.config import EvaluationConfig
from infill.pipeline.evaluation.metric_networks import load_networks
from infill.pipeline.evaluation.page import write_pages
from infill.pipeline.evaluation.pairs import Pairs, PublishedPairs, lay_pairs
from infill.pipeline.evaluation.result import FORMAT, SCORES, Evaluation, finished, save_evaluation
from infill.pipeline.evaluation.scorer import (
    FEATURES,
    GRID,
    ORIGINAL,
    STAGES,
    Scorer,
    part_location,
    read_table,
    write_table,
)
from infill.pipeline.evaluation.scores import ALL, SetScores, average, distribution_scores
from infill.pipeline.loading import left_out, open_set
from infill.pipeline.metrics.distribution_metrics import FeatureSet
from infill.pipeline.metrics.metric_registry import Classify
from infill.pipeline.progress import Log, Progress, duration, shows_everything
from infill.pipeline.shared_folders import made_here, seen_here

NO_MATTER = (
    *("checkpoint", "shards", "image_member", "pairs", "out"),
    *("num_actors", "cpus_per_actor", "gpus_per_actor"),
)
"""Fields that do not change scores: locations (their content counts), and resources."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An evaluation that can start: all its inputs exist."""

    config: EvaluationConfig
    """The configuration, with the checkpoint that was found in the run, and absolute locations."""
    checkpoint: dict[str, str | int]
    pairs: Pairs
    digest: str

    @property
    def parts(self) -> str:
        """Folder of the unfinished parts, which depends on the settings and the metrics."""
        identity = storage.sha256(" ".join([self.digest, *self.metrics]).encode())
        return storage.join(self.config.out, f"_parts-{identity[:16]}")

    @property
    def metrics(self) -> list[str]:
        """The metrics of each pair, by name."""
        return [metric.name for metric in self.config.measured]

    @property
    def numbers(self) -> list[str]:
        """Sentences on numbers of images and mask files that differ from the paper's or between."""
        found = [self.config.setting.of_other_images(len(self.pairs.rows()))]
        if isinstance(self.pairs, PublishedPairs):
            found.append(self.pairs.use_of_files)
        return [sentence for sentence in found if sentence]


def prepare(config: EvaluationConfig) -> Plan:
    """Find checkpoint and data and check that they fit together; Ray is not needed yet.

    Raises:
        UserError: if the checkpoint or the test set is missing or damaged, or images are too small.
    """
    found = checkpoints.find(config.checkpoint)
    values = checkpoints.read_config(found)
    manifest = open_set(config.shards, config.reading, "--image-member")
    config = _located(config, checkpoint=found, shards=storage.absolute(config.shards))
    checkpoint: dict[str, str | int] = {
        "location": found,
        "digest": checkpoints.digest(found),
        "architecture": str(values["model"]["architecture"]),
        "step": int(checkpoints.read_state(found)["step"]),
    }
    _require_samples(config, values["model"])
    pairs = lay_pairs(config, manifest, int(values["data"]["image_size_px"]))
    config.networks.require_files()
    _require_measurable(config, pairs.least_side_px)
    identity = {
        "format": FORMAT,
        "settings": {k: v for k, v in to_dict(config).items() if k not in NO_MATTER},
        "setting": {k: v for k, v in to_dict(config.setting).items() if k != "images"},
        "image_size_px": pairs.image_size_px,
        "checkpoint": checkpoint["digest"],
        "data": manifest.digest + config.image_member,
        "pairs": pairs.identity,
    }
    digest = storage.sha256(json.dumps(identity, sort_keys=True).encode())
    return Plan(config=config, checkpoint=checkpoint, pairs=pairs, digest=digest)


def evaluate(config: EvaluationConfig, report: Log = print) -> Evaluation:
    """Score a checkpoint and the baselines on a test set. Runs on the driver.

    Ray must be connected, unless ``num_actors`` is 0.

    Finished parts of an interrupted evaluation with the same settings are reused; a finished
    evaluation is returned as it is.

    Args:
        config: the evaluation.
        report: prints one line.

    Raises:
        UserError: as :func:`prepare` does, or if the cluster lacks CPUs or GPUs.
    """
    plan = prepare(config)
    kept = finished(plan.config.out, plan.digest, plan.metrics)
    if kept is not None:
        report(f"{kept.out} already holds the scores of these settings; they are reused")
        return kept
    for line in left_out(plan.pairs.manifest):
        report(line)
    warn_if_inverted(plan.pairs, report)
    start = time.monotonic()
    cost = _score(plan, report)
    evaluation = _assemble(plan, cost)
    pairs, took = len(plan.pairs), duration(time.monotonic() - start)
    report(f"scored {len(evaluation.methods)} methods on {pairs} pairs in {took}")
    return evaluation


def warn_if_inverted(pairs: Pairs, report: Log) -> None:
    """Warn if most masks hide most of the image, although the settings do not ask for it."""
    looked_at = range(0, len(pairs), -(-len(pairs) // 32))
    ratios = [
        pairs.mask(pair).hole_ratio
        for pair in map(pairs.__getitem__, looked_at)
        if pair.group.masks.min_hole_ratio < 0.4
    ]
    if ratios and (middle := statistics.median(ratios)) > 0.6:
        report(
            f"warning: half of the masks hide more than {100 * middle:.0f} % of the image; if that "
            "is not meant, they are inverted: try --masks.polarity white or --masks.polarity black"
        )


def _require_samples(config: EvaluationConfig, values: dict[str, Any]) -> None:
    if config.setting.samples == 1:
        return
    model = from_dict(ModelConfig, values, "model")
    with torch.device("meta"):  # Only the class is needed: nothing is allocated.
        generator = load(model.architecture).generator(model)
    if not isinstance(generator, SamplingGenerator):
        raise UserError(
            f"{model.architecture} as configured generates one result per pair, not "
            f"{config.setting.samples}; evaluate it with --samples 1 and without a protocol of "
            "several samples"
        )


def _require_measurable(config: EvaluationConfig, side: int) -> None:
    for metric in config.measured:
        if side < metric.least_side_px:
            raise UserError(
                f"{metric.title} ({metric.name}) is not defined below {metric.least_side_px} px, "
                f"there are images of {side} px; leave it out or give a larger --image-size-px"
            )


def _located(config: EvaluationConfig, checkpoint: str, shards: str) -> EvaluationConfig:
    out = storage.absolute(config.out)
    return replace(config, checkpoint=checkpoint, shards=shards, out=out)


def _score(plan: Plan, report: Log) -> dict[str, float]:
    """Score the parts that are missing, each in an actor; return the seconds per stage."""
    present = set(storage.names(plan.parts))
    numbers = [*range(plan.pairs.num_parts), GRID]
    missing = [n for n in numbers if _part_name(plan, n) not in present]
    total = len(plan.pairs)
    kept = total - sum(len(plan.pairs.part(n)) for n in missing if n != GRID)
    if kept:
        report(f"{kept} of {total} pairs were scored before an interruption; resuming")
    cost = dict.fromkeys(STAGES, 0.0)
    with Progress("evaluation", total, "pairs", done=kept, log=report) as progress:
        for done in _results(plan, missing):
            progress.advance(int(done["pairs"]))
            for stage in STAGES:
                cost[stage] += done[stage]
    return cost


def _part_name(plan: Plan, number: int) -> str:
    location = part_location(plan.parts, "rows", number) if number != GRID else "grid.png"
    return location.rsplit("/", 1)[-1]


def _results(plan: Plan, missing: Sequence[int]) -> Iterator[dict[str, float]]:
    """Score parts, here or in a pool of actors; yield the times of each as it is finished."""
    if not missing:
        return
    config = plan.config
    if not config.num_actors:
        scorer = Scorer(config, plan.pairs.image_size_px, plan.parts)
        yield from map(scorer.work, missing)
        return
    import ray.data

    blocks = [pa.table({"part": [number]}) for number in missing]
    out = made_here(plan.parts)
    seen = seen_here(config.checkpoint, config.shards, config.masks.folder, out)
    with quiet_data(), counted_attempts() as attempts:
        # Blocks made here need no reading tasks, so the actors may use every CPU.
        data = ray.data.from_arrow(blocks)
        data.context.enable_progress_bars = shows_everything()
        scored = data.map_batches(
            Scorer,
            fn_constructor_args=(config, plan.pairs.image_size_px, plan.parts, attempts, seen),
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=_num_actors(config)),
            num_cpus=config.cpus_per_actor,
            num_gpus=config.gpus_per_actor,
        )
        for batch in scored.iter_batches(batch_size=None, prefetch_batches=0):
            if failed := [error for error in batch.pop("error") if error]:
                raise UserError(failed[0])
            for row in zip(*batch.values(), strict=True):
                yield dict(zip(batch, map(float, row), strict=True))


def _num_actors(config: EvaluationConfig) -> int:
    """Return how many of the configured actors the cluster has resources for."""
    import ray

    has = ray.cluster_resources()
    available = int(has.get("CPU", 0) // config.cpus_per_actor)
    if config.gpus_per_actor:
        available = min(available, int(has.get("GPU", 0) / config.gpus_per_actor))
    if available < 1:
        raise UserError(
            f"an actor needs {config.cpus_per_actor} CPU and {config.gpus_per_actor:g} GPU, the "
            f"cluster has {has.get('CPU', 0):g} CPU and {has.get('GPU', 0):g} GPU; lower "
            "--cpus-per-actor or --gpus-per-actor"
        )
    return min(config.num_actors, available)


def _assemble(plan: Plan, cost: dict[str, float]) -> Evaluation:
    """Join the parts, average, and write every file; ``scores.json`` comes last."""
    out = plan.config.out
    storage.remove(storage.join(out, SCORES))  # The files beside it will change.
    tables = {}
    for kind in ("rows", "pairs"):
        locations = [part_location(plan.parts, kind, n) for n in range(plan.pairs.num_parts)]
        tables[kind] = pa.concat_tables([read_table(location) for location in locations])
        write_table(storage.join(out, f"{kind}.parquet"), tables[kind])
    storage.write(storage.join(out, "grid.png"), storage.read(storage.join(plan.parts, "grid.png")))
    methods = [str(plan.checkpoint["architecture"]), *plan.config.baselines]
    evaluation = Evaluation(
        out=out,
        digest=plan.digest,
        settings=to_dict(plan.config),
        checkpoint=plan.checkpoint,
        data=_data(plan, tables["pairs"]),
        scores=average(
            tables["rows"], plan.pairs.groups, methods, plan.config.seed, plan.config.measured
        ),
        cost=cost,
        set_scores=_score_sets(plan, tables["pairs"], methods),
    )
    write_pages(evaluation)
    save_evaluation(evaluation)
    storage.remove(plan.parts)
    return evaluation


def _score_sets(plan: Plan, pairs: pa.Table, methods: Sequence[str]) -> SetScores:
    """Compare the composites of each method and group with their images by each network."""
    scores: SetScores = {}
    for network, classifier in load_networks(plan.config.networks, "cpu").of_sets.items():
        found = _score_by(plan, pairs, methods, network, classifier.probabilities)
        for method, columns in found.items():
            for column, values in columns.items():
                scores.setdefault(method, {}).setdefault(column, {}).update(values)
    return scores


def _score_by(
    plan: Plan, pairs: pa.Table, methods: Sequence[str], network: str, classify: Classify
) -> SetScores:
    """Return the metrics of one network by method and column."""
    groups = pairs["group"].to_pylist()
    columns = {group.name: [group.name] for group in plan.pairs.groups}
    columns[ALL] = [group.name for group in plan.pairs.groups if group.in_all]
    scores: SetScores = {}
    with TemporaryDirectory(prefix="infill-features-") as folder:
        kind = FEATURES[network]
        images = _collect_features(plan, kind, ORIGINAL, "row", Path(folder) / "images")
        for method in methods:
            composites = _collect_features(plan, kind, method, "pair", Path(folder) / "composites")
            scores[method] = {}
            for column, names in columns.items():
                chosen = [index for index, group in enumerate(groups) if group in names]
                own = [plan.pairs[index].row for index in chosen]
                rows = sorted(set(own))
                scores[method][column] = distribution_scores(
                    FeatureSet(composites.stored, composites.rows[chosen]),
                    FeatureSet(images.stored, images.rows[rows]),
                    classify,
                    plan.config.seed,
                    FeatureSet(images.stored, images.rows[own]),
                    network,
                )
    return scores


def _collect_features(plan: Plan, kind: str, method: str, key: str, file: Path) -> FeatureSet:
    """Copy the features of a method from all parts into one file, which is mapped, not read.

    Returns:
        By pair or row: the last features of each, [largest + 1, D].
    """
    width, keys = 0, [np.zeros(0, np.int64)]
    with file.open("wb") as sink:
        for number in range(plan.pairs.num_parts):
            table = read_table(part_location(plan.parts, kind, number))
            table = table.filter(pc.equal(table["method"], method)).combine_chunks()
            if table.num_rows:
                flat = table["features"].combine_chunks().flatten().to_numpy()
                width = len(flat) // table.num_rows
                sink.write(np.ascontiguousarray(flat, np.float32).data)
                keys.append(table[key].to_numpy().astype(np.int64))
    order = np.concatenate(keys)
    rows = np.zeros(int(order.max()) + 1, np.int64)
    rows[order] = np.arange(len(order))
    return FeatureSet(np.memmap(file, np.float32, "r", shape=(len(order), width)), rows)


def _data(plan: Plan, pairs: pa.Table) -> dict[str, Any]:
    return {
        "location": plan.config.shards,
        "digest": plan.pairs.manifest.digest,
        "image_size_px": plan.pairs.image_size_px,
        "images": len(plan.pairs.rows()),
        "photographs": len(pairs["source"].unique()),
        "pairs": len(pairs),
        "hole_ratios": {
            group.name: float(
                pc.mean(pairs.filter(pc.equal(pairs["group"], group.name))["hole_ratio"]).as_py()
            )
            for group in plan.pairs.groups
        },
    }
