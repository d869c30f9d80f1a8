"""The loop every worker runs, and its launch over the cluster.

The loop belongs to every paper: it feeds batches to the paper's own ``step``, and at fixed steps
reports, draws a grid, validates and saves. A run is a folder (or s3:// prefix): started again, it
goes on from its newest undamaged checkpoint, with any number of workers, because the samples of
a step depend on nothing but the data, the seed and the step.
"""

import copy
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.architecture import ModelConfig, Objective, Updating, fill, load
from models.holes import paste
from models.layers import channels_innermost
from pipeline import checkpoints, storage
from pipeline.batches import BatchConfig, BatchStream, SampleMaker, to_model, to_pixels
from pipeline.config import UserError, flatten, override, to_dict, to_json
from pipeline.manifest import Manifest, read_manifest
from pipeline.metrics import hole_l1, hole_psnr, psnr
from pipeline.pictures import sample_grid
from pipeline.tracking import Record, Report, Track, TrackingConfig, duration, log_run, mailbox

SCORE = "hole_psnr"
"""The validation score by which a run's best checkpoint is chosen; higher is better."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training: a model, its data, and how long on how many workers."""

    model: ModelConfig
    """The paper's numbers."""
    data: BatchConfig
    """The shards and what is done to a sample; its ``shards`` may hold a train and a val set."""
    storage: str = "runs/train"
    """The run's folder or s3:// prefix; an unfinished run found there is gone on with."""
    steps: int = 1000
    """Global steps; every worker takes its share of each."""
    num_workers: int = 2
    """Training processes on the cluster; 0 trains in this process, without Ray."""
    cpus_per_worker: float = 1.0
    """Logical CPUs a worker reserves; it computes with as many threads, at least one."""
    use_gpu: bool = False
    """One GPU for each worker (NCCL) instead of CPUs only (gloo)."""
    channels_last: bool = True
    """Whether weights and maps are laid out with channels innermost: a tenth to a fifth faster on
    CPUs, and what tensor cores read. Results agree to the order of sums."""
    seed: int = 0
    """Of the initial weights and of whatever the networks draw; the data has its own."""
    ema_decay: float = 0.0
    """Per step, of the averaged generator that is validated and served; 0 keeps none."""
    init_from: str = ""
    """Checkpoint or run whose weights to start from (fine-tuning); "" starts at random."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What convolutions and matrix products compute in during training; "bfloat16" by autocast:
    scores, statistics, losses, critics and the weights themselves stay in float32."""
    compile: bool = False
    """Whether the generator is compiled: minutes at the start, which long runs on GPUs earn back.
    """
    accumulate: int = 1
    """Parts a worker's share of a batch is cut into, to hold one at a time in memory."""
    max_gradient_norm: float = 0.0
    """A network's gradients are scaled down to this L2 norm; 0 leaves them (as published)."""
    report_every_steps: int = 10
    """Steps between two progress lines."""
    save_every_steps: int = 100
    """Steps between two checkpoints, each with validation scores; the last step saves too."""
    sample_every_steps: int = 100
    """Steps between two sample grids."""
    keep_checkpoints: int = 2
    """The newest ones that are kept, beside the best."""
    validation_samples: int = 64
    """How many samples of the val set are scored at each checkpoint."""
    dry_run: bool = False
    """Only say what would be done, and what it needs."""
    max_failures: int = 3
    """How often the group of workers is rebuilt after one of them died."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Where the run's numbers are written down."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, not {self.num_workers}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        if self.data.batch_size % max(self.num_workers, 1):
            raise ValueError(
                f"data.batch_size {self.data.batch_size} is the global batch and must be "
                f"a multiple of num_workers {self.num_workers}"
            )
        share = self.data.batch_size // max(self.num_workers, 1)
        if self.accumulate < 1 or share % self.accumulate:
            raise ValueError(
                f"accumulate must divide each worker's {share} samples equally, "
                f"which {self.accumulate} does not"
            )
        if self.max_gradient_norm < 0:
            raise ValueError(f"max_gradient_norm must not be negative: {self.max_gradient_norm}")
        if self.data.image_size_px % self.model.size_multiple:
            raise ValueError(
                f"data.image_size_px {self.data.image_size_px} must be a multiple of "
                f"{self.model.size_multiple} for {self.model.architecture}"
            )
        for name in ("report_every_steps", "save_every_steps", "sample_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training left behind."""

    run: str
    """The run's folder."""
    checkpoint: str
    """The best checkpoint by validation :data:`SCORE`; the last one without a val set."""
    scores: dict[str, float]
    """That checkpoint's validation scores."""
    step: int
    """The last step taken."""
    seconds: float
    """Spent in this call."""
    reused: bool
    """Whether the run was complete already."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker stands among the others, and what it does with them."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    channels_last: bool = True

    def prepare(self, network: nn.Module) -> nn.Module:
        """Return the network on this worker's device, gradients averaged over all workers."""
        network.to(self.device)
        if self.channels_last:
            channels_innermost(network)
        if self.world_size == 1:
            return network
        ids = [self.device] if self.device.type == "cuda" else None
        # Buffers (power iterations) follow the same path on every worker: no need to send them.
        return nn.parallel.DistributedDataParallel(
            network, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all workers."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def agree(self, value: Any) -> Any:
        """Return the first worker's value on every worker."""
        if self.world_size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


class NonFiniteLossError(ArithmeticError):
    """A loss that is no longer a number; names the term and the step."""

    def __init__(self, term: str, step: int) -> None:
        super().__init__(term, step)
        self.term, self.step = term, step

    def __str__(self) -> str:
        return f"the loss {self.term!r} is not finite at step {self.step}"


class Average:
    """The exponential moving average of a generator, the same on every worker."""

    def __init__(self, generator: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(generator).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, generator: nn.Module, step: int) -> None:
        """Move towards ``generator``; early on faster, so that the random start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = self.network.state_dict(), generator.state_dict()
        for name, average in ours.items():
            if average.is_floating_point():
                average.lerp_(theirs[name], 1 - decay)
            else:
                average.copy_(theirs[name])


def train(config: TrainConfig, log: Callable[[str], None] = print) -> TrainResult:
    """Train to the last step, going on from where the run stands. On the driver.

    Ray must be connected when ``config.num_workers`` is not 0.

    Raises:
        UserError: if the data does not fit the configuration, or the run's folder holds a run
            with another one.
    """
    start = time.monotonic()
    config = resolve(config)
    track = Track(config.model.architecture, config.steps, log)
    newest = checkpoints.latest(config.storage, log)
    if newest is not None:
        _require_same_run(config, newest)
    done = checkpoints.read_state(newest)["step"] if newest else 0
    if done < config.steps:
        if config.num_workers:
            build_objective(config, Place())  # what is missing is told before the cluster is asked
        storage.write(storage.join(config.storage, "config.json"), to_json(config).encode())
        launch(config, track)
        track.save(storage.join(config.storage, f"progress-{done:09d}.jsonl"))
        tags = {"storage": config.storage}
        log_run(config.tracking, config.model.architecture, flatten(config), track.records, tags)
    checkpoint, scores = best(config.storage)
    return TrainResult(
        run=config.storage,
        checkpoint=checkpoint,
        scores=scores,
        step=max(done, config.steps),
        seconds=time.monotonic() - start,
        reused=done >= config.steps,
    )


def resolve(config: TrainConfig) -> TrainConfig:
    """Return the configuration with absolute locations and its data proven to be there."""
    if not config.data.shards:
        raise UserError(
            "no shards given: add --data.shards DIR, made by `python jobs/make_shards.py`"
        )
    training_set, _ = find_sets(config.data.shards)
    SampleMaker(replace(config.data, shards=training_set), read_manifest(training_set))
    changes = {"data.shards": storage.absolute(config.data.shards)}
    changes["storage"] = storage.absolute(config.storage)
    if config.init_from:
        changes["init_from"] = checkpoints.find(storage.absolute(config.init_from))
    return override(config, changes)


def find_sets(shards: str) -> tuple[str, str | None]:
    """Return the training set and the validation set (or None) at a location of shards."""
    shards = storage.absolute(shards)
    training, validation = storage.join(shards, "train"), storage.join(shards, "val")
    if not storage.exists(training):
        return shards, None
    return training, validation if storage.exists(validation) else None


def _require_same_run(config: TrainConfig, newest: str) -> None:
    """Refuse to go on with a run whose model, data recipe or seed was another."""
    before = checkpoints.read_config(newest)
    now = to_dict(config)
    free = {"shards", "decode_threads", "prefetch_batches", "loader"}
    free |= {"verify_checksums", "cache_folder", "cache_size_gb"}
    for part in ("model", "data", "seed", "ema_decay"):
        old, new = before[part], now[part]
        if isinstance(old, dict):
            changed = [key for key in new if key not in free and old.get(key) != new[key]]
        else:
            changed = [""] if old != new else []
        if changed:
            name = f"{part}.{changed[0]}".rstrip(".")
            raise UserError(
                f"{config.storage} holds a run with another {name}; "
                "give a new --storage, or delete that folder to start over"
            )


def best(run: str) -> tuple[str, dict[str, float]]:
    """Return a run's best whole checkpoint by validation score, and its scores.

    Raises:
        UserError: if the run has no checkpoint.
    """
    found = []
    for step in checkpoints.steps(run):
        location = checkpoints.step_location(run, step)
        try:
            scores = checkpoints.read_state(location)["scores"]
        except UserError:
            continue
        found.append((scores.get(SCORE, -math.inf), step, location, scores))
    if not found:
        raise UserError(f"{run} has no checkpoint; train first with `python jobs/train_spn.py`")
    _, _, location, scores = max(found)
    return location, scores


def launch(config: TrainConfig, report: Report) -> None:
    """Run the loop in this process, or on ``num_workers`` processes of the cluster."""
    if config.num_workers == 0:
        work(config, Place(device=_own_device(config), channels_last=config.channels_last), report)
        return
    _launch_on_cluster(config, report)


def _own_device(config: TrainConfig) -> torch.device:
    return torch.device("cuda" if config.use_gpu else "cpu")


def _launch_on_cluster(config: TrainConfig, report: Report) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": config.cpus_per_worker} | ({"GPU": 1} if config.use_gpu else {})
    books = storage.join(config.storage, "ray")
    with mailbox(report) as box:
        try:
            TorchTrainer(
                _work_on_cluster,
                train_loop_config={"config": config, "mailbox": box},
                torch_config=TorchConfig(timeout_s=600),
                scaling_config=ScalingConfig(
                    num_workers=config.num_workers,
                    use_gpu=config.use_gpu,
                    resources_per_worker=resources,
                ),
                run_config=RunConfig(
                    # Ray's own books: our checkpoints prove themselves and need none of them.
                    name=uuid.uuid4().hex,
                    storage_path=books,
                    failure_config=FailureConfig(
                        max_failures=config.max_failures, controller_failure_limit=3
                    ),
                ),
            ).fit()
        finally:
            storage.remove(books)


def _work_on_cluster(settings: dict[str, Any]) -> None:
    """On every worker: find out where it stands, then run the loop."""
    import ray.train
    from ray.train.torch import get_device

    config, box = settings["config"], settings["mailbox"]
    context = ray.train.get_context()
    place = Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=get_device(),
        channels_last=config.channels_last,
    )
    torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    work(config, place, lambda record: box.put.remote(record))


def work(config: TrainConfig, place: Place, report: Report) -> None:
    """Take this worker's share of every step. On every worker."""
    training_set, validation_set = find_sets(config.data.shards)
    objective, average, first_step = _begin(config, place, report)
    manifest = read_manifest(training_set)
    judge = Judge(config, place, read_manifest(validation_set) if validation_set else None)
    data = replace(config.data, shards=training_set)
    meter = Meter(config, place, report, objective, manifest.digest)
    steps, low = range(first_step, config.steps), config.precision == "bfloat16"
    with BatchStream(data, place.rank, place.world_size, first_step) as stream:
        meter.start(stream, first_step)
        for step, batch in zip(steps, stream, strict=False):
            with torch.autocast(place.device.type, torch.bfloat16, enabled=low):
                losses = objective.take(batch.to(place.device))
            stop_if_not_finite(losses, step)
            if average is not None:
                average.update(objective.generator, step)
            drawn = average.network if average is not None else objective.generator
            done = step + 1
            if due(done, config.report_every_steps, config.steps):
                meter.report_losses(losses, done)
            if due(done, config.sample_every_steps, config.steps):
                judge.draw(drawn, done, report)
            if due(done, config.save_every_steps, config.steps):
                meter.save(average, judge.scores(drawn), done)


def due(done: int, every: int, last: int) -> bool:
    """Tell whether something that happens ``every`` so many steps, and at the last, is due."""
    return done % every == 0 or done == last


def _begin(
    config: TrainConfig, place: Place, report: Report
) -> tuple[Objective, Average | None, int]:
    """Build the networks and bring them to where the run stands."""
    objective = build_objective(config, place)

    def note(text: str) -> None:
        if place.rank == 0:
            report(Record(kind="note", step=0, text=text))

    newest = place.agree(checkpoints.latest(config.storage, note) if place.rank == 0 else None)
    if newest is None and config.init_from:
        checkpoints.initialize(config.init_from, objective)
        note(f"starting from the weights of {config.init_from}")
    average = Average(objective.generator, config.ema_decay) if config.ema_decay else None
    if newest is None:
        return objective, average, 0
    state = checkpoints.restore(newest, objective, average.network if average else None)
    note(f"going on from step {state['step']}")
    return objective, average, int(state["step"])


def build_objective(config: TrainConfig, place: Place) -> Objective:
    """Build networks, optimisers and teachers; files of weights are fetched to this machine.

    Raises:
        UserError: if a file of weights is missing or not what it should be.
    """
    model = with_local_weights(config.model)
    with torch.random.fork_rng(), torch.device(place.device):
        torch.manual_seed(config.seed)
        try:
            objective = load(model.architecture).objective(model, place.prepare)
        except ValueError as error:
            raise UserError(str(error)) from error
    if config.accumulate > 1 and not objective.updates_once:
        raise UserError(
            f"{model.architecture} cuts its batches itself, one part for each update within a "
            "step; leave accumulate at 1 and choose a smaller data.batch_size"
        )
    objective.updating = Updating(
        parts=config.accumulate, max_gradient_norm=config.max_gradient_norm
    )
    if config.compile:
        objective.generator.compile(fullgraph=True)
    return objective


def with_local_weights(model: ModelConfig) -> ModelConfig:
    """Return the configuration with every file of weights on this machine.

    A field ``NAME_weights`` that holds an address (s3:// or https://) is fetched and compared
    with ``NAME_sha256``.

    Raises:
        UserError: if the checksum is absent or differs, or the address does not answer.
    """
    values = flatten(model)
    addresses = {
        name: str(value)
        for name, value in values.items()
        if name.endswith("_weights") and isinstance(value, str) and storage.is_remote(value)
    }
    return override(
        model,
        {
            name: str(storage.fetch(address, values[name.removesuffix("weights") + "sha256"]))
            for name, address in addresses.items()
        },
    )


def stop_if_not_finite(losses: dict[str, Tensor], step: int) -> None:
    """Raise :class:`NonFiniteLossError` for the first term that is infinite or not a number."""
    finite = torch.stack([value.detach().float() for value in losses.values()]).isfinite()
    for term, good in zip(losses, finite.tolist(), strict=True):  # one wait for the device
        if not good:
            raise NonFiniteLossError(term, step)


class Meter:
    """A worker's clock and pen: rates between two reports, and the checkpoints."""

    def __init__(
        self, config: TrainConfig, place: Place, report: Report, objective: Objective, data: str
    ) -> None:
        self.config, self.place, self.report = config, place, report
        self.objective, self.data_digest = objective, data

    def start(self, stream: BatchStream, step: int) -> None:
        """Begin to count time and waiting."""
        self.stream, self.step = stream, step
        self.moment, self.waited_s = time.monotonic(), stream.wait_s

    def report_losses(self, losses: dict[str, Tensor], step: int) -> None:
        """Report the global means of the loss terms, samples per second and data wait share."""
        names = list(losses)
        sums = self.place.total(torch.stack([losses[name].detach().float() for name in names]))
        values = dict(zip(names, (sums / self.place.world_size).tolist(), strict=True))
        now, waited_s = time.monotonic(), self.stream.wait_s
        elapsed_s = now - self.moment
        samples = (step - self.step) * self.config.data.batch_size
        for role, norm in self.objective.gradient_norms.items():
            values[f"gradient_norm/{role}"] = norm.item()
        for role, optimizer in self.objective.optimizers.items():
            values[f"learning_rate/{role}"] = optimizer.param_groups[0]["lr"]
        values["samples_per_s"] = samples / elapsed_s
        values["data_wait_share"] = (waited_s - self.waited_s) / elapsed_s
        self.step, self.moment, self.waited_s = step, now, waited_s
        if self.place.rank == 0:
            self.report(Record(kind="losses", step=step, values=values))

    def save(self, average: Average | None, scores: dict[str, float], step: int) -> None:
        """Report the scores; the first worker writes the checkpoint and clears older ones."""
        if self.place.rank != 0:
            return
        if scores:
            self.report(Record(kind="scores", step=step, values=scores))
        state = {"step": step, "data_digest": self.data_digest, "scores": scores}
        run = self.config.storage
        checkpoints.save(
            checkpoints.step_location(run, step),
            self.objective,
            average.network if average is not None else None,
            to_dict(self.config),
            state,
        )
        keep = checkpoints.read_state(best(run)[0])["step"]
        checkpoints.prune(run, self.config.keep_checkpoints, protected={keep})


class Judge:
    """Scores and draws the same samples, spread over the val set, with the same masks each time."""

    def __init__(self, config: TrainConfig, place: Place, manifest: Manifest | None) -> None:
        self.config, self.place = config, place
        self.pairs: list[tuple[Tensor, Tensor]] = []
        if manifest is None:
            return
        maker = SampleMaker(as_seen_in_validation(config.data), manifest)
        count = min(config.validation_samples, len(manifest))
        rows = np.linspace(0, len(manifest) - 1, count).round().astype(int)
        for row in rows[place.rank :: place.world_size].tolist():
            sample = maker.make(row, epoch=0)
            hole = torch.from_numpy(np.ascontiguousarray(sample.hole)).float()[None, None]
            self.pairs.append((to_model(sample.pixels), hole))

    @torch.no_grad()
    def _predict(self, generator: nn.Module, image: Tensor, mask: Tensor) -> Tensor:
        was_training = generator.training
        generator.eval()
        image, mask = image.to(self.place.device), mask.to(self.place.device)
        prediction = fill(generator, image, mask, self.config.model.size_multiple)
        generator.train(was_training)
        return prediction.cpu()

    def scores(self, generator: nn.Module) -> dict[str, float]:
        """Return mean PSNR and L1 of the 8-bit composites over all workers' samples."""
        sums = torch.zeros(4, dtype=torch.float64)
        for image, mask in self.pairs:
            composite = paste(self._predict(generator, image, mask), image, mask)
            ours, theirs = (torch.from_numpy(to_pixels(x)) for x in (composite, image))
            found = [hole_psnr(ours, theirs, mask), psnr(ours, theirs), hole_l1(ours, theirs, mask)]
            sums += torch.tensor([*(score.item() for score in found), 1.0], dtype=torch.float64)
        sums = self.place.total(sums.to(self.place.device, torch.float32)).cpu()
        if not sums[3]:
            return {}
        means = (sums[:3] / sums[3]).tolist()
        return dict(zip(("hole_psnr", "psnr", "hole_l1"), means, strict=True))

    def draw(self, generator: nn.Module, step: int, report: Report) -> None:
        """Write a grid of the first validation samples into the run. On the first worker."""
        if self.place.rank != 0 or not self.pairs:
            return
        shown = self.pairs[:: max(1, len(self.pairs) // 6)][:6]
        images = np.concatenate([to_pixels(image) for image, _ in shown])
        holes = np.concatenate([mask[:, 0].numpy().astype(np.uint8) for _, mask in shown])
        predictions = [to_pixels(self._predict(generator, *pair)) for pair in shown]
        location = storage.join(self.config.storage, "samples", f"step-{step:09d}.png")
        storage.write(location, sample_grid(images, holes, np.concatenate(predictions)))
        report(Record(kind="picture", step=step, text=f"sample grid {location}"))


def as_seen_in_validation(data: BatchConfig) -> BatchConfig:
    """Return the training's view of a sample without chance: centred, upright, always the same."""
    return replace(
        data,
        crop="centre" if data.crop == "random" else data.crop,
        horizontal_flip=False,
        quarter_turns=False,
        colour_jitter=0.0,
        masks=replace(data.masks, curriculum_steps=0),
        seed=0,
    )


def summary(result: TrainResult) -> str:
    """Return one line for people: what came out of a training and where."""
    scores = "  ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
    how = "was complete already" if result.reused else f"trained in {duration(result.seconds)}"
    return f"{how}: {result.checkpoint}  {scores}"
