"""Check a training, launch it on the cluster, and summarise it; runs on the driver."""

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from infill.models.architecture import load
from infill.pipeline import checkpoints, storage
from infill.pipeline.config import flatten, override, to_json
from infill.pipeline.errors import UserError
from infill.pipeline.interruption import handled
from infill.pipeline.loading import InpaintingDataset, names_tars
from infill.pipeline.loading.tar_names import given_up, require_tar_for_each, require_tars
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import check_mask_files
from infill.pipeline.progress import duration
from infill.pipeline.provenance import made_with
from infill.pipeline.shared_folders import require_seen, seen_here
from infill.pipeline.tracking import GuardedReport, Record, Report, RunInfo, logged, record_queue
from infill.pipeline.training.batch_scaling import scaled
from infill.pipeline.training.build import require_weights
from infill.pipeline.training.config import TrainConfig, TrainResult
from infill.pipeline.training.controller_failures import fit
from infill.pipeline.training.distributed import WorkerContext
from infill.pipeline.training.heartbeat import monitored, sending_heartbeats
from infill.pipeline.training.run_dir import (
    best,
    delete_unfinished,
    find_sets,
    require_same_optimizers,
    resumed,
)
from infill.pipeline.training.run_lock import locked
from infill.pipeline.training.stopping import raise_if_requested
from infill.pipeline.training.train_loop import run_worker

ROOM_ATTEMPTS = 60
"""Number of attempts to place the workers on a cluster without free resources, a minute each: a new
or repaired node takes time to start. Each lost node costs one or several attempts."""
RESIZE_EVERY_S = 60.0
"""Seconds between two attempts to add workers to a run with fewer than configured."""


def train(
    config: TrainConfig, log: Callable[[str], None] = print, also: Report | None = None
) -> TrainResult:
    """Train to the last step, resuming the run if it exists. On the driver.

    Ray must be connected when ``config.num_workers`` is not 0.

    Args:
        config: the configuration of the run.
        log: prints one line for the user.
        also: receives every record as well, as it comes.

    Raises:
        UserError: if the data does not fit the configuration, or the run's folder holds a run with
            another configuration, or another process trains there.
    """
    config = resolve(scaled(config))
    with locked(config.storage, log):
        return _train(config, log, also)


def _train(config: TrainConfig, log: Callable[[str], None], also: Report | None) -> TrainResult:
    start = time.monotonic()
    delete_unfinished(config.storage)
    newest = checkpoints.latest(config.storage, log)
    if newest is not None:
        config = resumed(config, newest, log)
    done = checkpoints.read_state(newest)["step"] if newest else 0
    if done < config.steps:
        check_mask_files(config.data.masks)
        if names_tars(config.data.shards):
            log(given_up(config.data.shards))
        require_weights(config)
        storage.write(storage.join(config.storage, "config.json"), to_json(config).encode())
        _launch_written_down(config, done, log, also)
    checkpoint, scores = best(config.storage)
    return TrainResult(
        run=config.storage,
        checkpoint=checkpoint,
        scores=scores,
        step=max(done, config.steps),
        seconds=time.monotonic() - start,
        reused=done >= config.steps,
    )


def _launch_written_down(
    config: TrainConfig, done: int, log: Callable[[str], None], also: Report | None
) -> None:
    """Launch a run from step ``done`` on, and log its records."""
    architecture = config.model.architecture
    code = made_with()
    facts = {"storage": config.storage, "mlflow.source.git.commit": code["git_commit"]}
    facts |= {f"package.{name}": version for name, version in code["packages"].items()}
    facts |= {f"symbol.{name}": symbol for name, symbol in load(architecture).symbols.items()}
    info = RunInfo(
        config=config.tracking,
        run=config.storage,
        name=config.tracking.run_name or architecture,
        architecture=architecture,
        steps=config.steps,
        first_step=done,
        settings=flatten(config),
        facts=facts,
        log=log,
    )
    with logged(info) as logs:

        def report(record: Record) -> None:
            logs(record)
            if also is not None:
                also(record)

        launch(config, report)


def resolve(config: TrainConfig) -> TrainConfig:
    """Return the configuration with absolute locations, after checking that its data exists."""
    if not config.data.shards:
        raise UserError(
            "no shards given: add --data.shards DIR, made by `python jobs/make_shards.py`"
        )
    if config.model.training_size_px not in (None, config.data.image_size_px):
        raise UserError(
            f"data.image_size_px {config.data.image_size_px} must be model.image_size_px "
            f"{config.model.training_size_px}, for which the discriminator of "
            f"{config.model.architecture} is built: give both fields one value"
        )
    training_set, _ = find_sets(config.data.shards)
    if names_tars(training_set):
        require_tars(training_set)
        require_tar_for_each(training_set, max(1, config.num_workers))
    else:
        InpaintingDataset(replace(config.data, shards=training_set), read_manifest(training_set))
    changes = {"data.shards": storage.absolute(config.data.shards)}
    changes["storage"] = storage.absolute(config.storage)
    if config.data.validation_shards:
        changes["data.validation_shards"] = storage.absolute(config.data.validation_shards)
    if config.resume_from:
        changes["resume_from"] = checkpoints.find(config.resume_from)
    if config.init_from:
        try:
            changes["init_from"] = checkpoints.find(config.init_from)
        except UserError:
            if not checkpoints.steps(changes["storage"]):
                raise  # A run that has begun does not need them any more.
    config = override(config, changes)
    if config.resume_from:
        require_same_optimizers(config)
    return config


def launch(config: TrainConfig, report: Report) -> None:
    """Run the loop in this process, or on ``num_workers`` processes of the cluster.

    Raises:
        Interrupted: if Ctrl-C or SIGTERM ended the run, after a checkpoint.
    """
    with handled():
        if config.num_workers == 0:
            _launch_here(config, report)
        else:
            _launch_on_cluster(config, report)
        raise_if_requested(config.storage)


def _launch_here(config: TrainConfig, report: Report) -> None:
    worker = WorkerContext(device=_own_device(config), channels_last=config.channels_last)
    with computing_threads(config.num_threads_per_worker):
        run_worker(config, worker, report)


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Let PyTorch compute with a number of CPU threads while the block runs; 0 changes nothing."""
    if not count:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _own_device(config: TrainConfig) -> torch.device:
    return torch.device("cuda" if config.use_gpu else "cpu")


def _launch_on_cluster(config: TrainConfig, report: Report) -> None:
    from ray.train import TrainingFailedError

    books = storage.join(config.storage, "ray")
    wanted = partial(missing_resources, config.worker_numbers, worker_resources(config))
    guarded = GuardedReport(report)
    with record_queue(guarded) as box, monitored(guarded, wanted) as monitor:
        try:
            fit(
                partial(_trainer, config, books, {"mailbox": box, "monitor": monitor}),
                monitor,
                config.max_failures,
                lambda text: guarded(Record(kind="note", step=0, text=text)),
                guarded.has_failed,
            )
        except TrainingFailedError as error:
            guarded.raise_error()
            raise_if_requested(config.storage)
            _raise_what_was_given_up_for(monitor, error)
            raise
        finally:
            storage.remove(books)
        _raise_what_was_given_up_for(monitor, None)
    guarded.raise_error()


def worker_resources(config: TrainConfig) -> dict[str, float]:
    """Return what each worker reserves."""
    return {"CPU": config.cpus_per_worker} | ({"GPU": 1} if config.use_gpu else {})


def _trainer(config: TrainConfig, books: str, actors: Mapping[str, Any]) -> Any:
    """Return Ray's trainer of a run, with a name of its own."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from infill.pipeline.training.elastic import SharingTrainer
    from infill.pipeline.training.start_failures import START_ATTEMPTS, StartPolicy
    from infill.pipeline.training.worker_failures import WorkerFailures, send

    sizes = config.worker_numbers
    failures = FailureConfig(
        max_failures=config.max_failures, controller_failure_limit=ROOM_ATTEMPTS
    )
    return SharingTrainer(
        _work_on_cluster,
        sizes=sizes,
        monitor=actors["monitor"],
        failure_policy=StartPolicy(failures, partial(send, actors["mailbox"]), START_ATTEMPTS),
        train_loop_config={"config": config, "seen": _seen(config), **actors},
        torch_config=TorchConfig(timeout_s=config.collective_timeout_s),
        scaling_config=ScalingConfig(
            num_workers=(sizes[0], sizes[-1]) if len(sizes) > 1 else sizes[0],
            use_gpu=config.use_gpu,
            resources_per_worker=worker_resources(config),
            label_selector=dict(label.split("=", 1) for label in config.worker_labels) or None,
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
        ),
        run_config=RunConfig(
            # Ray's own bookkeeping, which our checksummed checkpoints do not need.
            name=uuid.uuid4().hex,
            storage_path=books,
            callbacks=[WorkerFailures(actors["mailbox"])],
            failure_config=failures,
        ),
    )


def _seen(config: TrainConfig) -> tuple[str, ...]:
    """Return the local paths that every worker must see."""
    run = storage.join(config.storage, "config.json")  # which this process has written
    data = (config.data.shards, config.data.validation_shards, config.data.masks.folder)
    return seen_here(run, *data, config.init_from, config.resume_from)


def missing_resources(workers: Collection[int], resources: Mapping[str, float]) -> str:
    """Return what the workers wait for, "" if they do not wait. On the driver.

    Args:
        workers: the possible numbers of workers.
        resources: the resources that each worker reserves.
    """
    import ray
    from ray.util import get_current_placement_group, placement_group_table

    if get_current_placement_group() is not None:
        return ""  # A trial has what its workers need.

    def waits(group: Mapping[str, Any]) -> bool:
        waiting = group["state"] in ("PENDING", "RESCHEDULING")
        bundles = group["bundles"].values()
        return waiting and all(
            bundle.get(n) == a for bundle in bundles for n, a in resources.items()
        )

    for group in placement_group_table().values():
        if len(group["bundles"]) in workers and waits(group):
            free = ray.available_resources()
            each = " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
            left = " and ".join(f"{free.get(name, 0):g} {name}" for name in resources)
            return (
                f"waiting for resources: {len(group['bundles'])} workers need {each} each, and the "
                f"cluster has {left} free; add nodes, end other jobs, or ask for fewer workers"
            )
    return ""


def _raise_what_was_given_up_for(monitor: Any, cause: Exception | None) -> None:
    import ray

    reason: Exception | None = ray.get(monitor.given_up.remote())
    if reason is not None:
        raise reason from cause


def _work_on_cluster(settings: dict[str, Any]) -> None:
    """On every worker: make its context, then run the loop."""
    import ray
    import ray.train
    from ray.train.torch import get_device

    config, box, monitor = settings["config"], settings["mailbox"], settings["monitor"]
    if ray.get(monitor.ends.remote()):
        return  # another attempt would fail in the same way, or is not wanted
    context = ray.train.get_context()
    worker = WorkerContext(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=get_device(),
        channels_last=config.channels_last,
        sync_batch_norm=config.sync_batch_norm,
        static_graph=config.static_graph,
        notice=lambda: ray.train.get_preemption_info() is not None,
    )
    torch.set_num_threads(config.num_threads_per_worker or max(1, int(config.cpus_per_worker)))
    if config.min_workers:
        text = f"training on {worker.world_size} of up to {config.num_workers} workers"
        worker.log(lambda record: box.put.remote(record), 0, text)
    try:
        require_seen(settings["seen"])
        with sending_heartbeats(monitor, worker.rank, worker.activity):
            run_worker(config, worker, lambda record: box.put.remote(record))
    except UserError as error:
        ray.get(monitor.give_up.remote(error))
        raise


def summary(result: TrainResult) -> str:
    """Return the result of a training in one line."""
    plain = {name: value for name, value in result.scores.items() if "/" not in name}
    scores = "  ".join(f"{name} {value:.3f}" for name, value in plain.items())
    how = "was complete already" if result.reused else f"trained in {duration(result.seconds)}"
    return f"{how}: {result.checkpoint}  {scores}".rstrip()
