"""The command line of a training job: presets, shards if there are none, a plan, training.

Every ``jobs/train_*.py`` consists of its presets and a call of this module.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from infill.models.config import ModelConfig
from infill.models.optimizers import implementation_on
from infill.pipeline import forkserver, loading, masks, sharding, storage, training
from infill.pipeline.cluster import connect, require_gpu
from infill.pipeline.commands import typed
from infill.pipeline.config import override, parse
from infill.pipeline.cost_estimate import CostEstimateConfig, compute_lines, estimate_compute
from infill.pipeline.errors import UserError
from infill.pipeline.job_summary import (
    announce,
    announce_start,
    inpaint_command,
    report_results,
    test_set_of,
    watching,
)
from infill.pipeline.loading import BatchConfig, names_tars
from infill.pipeline.loading.tar_names import expand
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import MaskConfig
from infill.pipeline.sharding import ShardConfig
from infill.pipeline.sources import open_source
from infill.pipeline.training import TrainConfig, TrainResult

__all__ = [
    "fine_tuning",
    "launch",
    "on_two_cores",
    "published",
    "smoke",
]

BUNDLED = "bundled"
"""The source without a location: images that installed packages carry."""
IMAGES_OF = {
    "ade20k": "ADE20K",
    "big": "Places2",
    "celeba": "CelebA",
    "celebahq": "CelebA-HQ",
    "demo": "Bundled photographs",
    "dtd": "Describable Textures",
    "facade": "CMP Facade",
    "ffhq": "FFHQ",
    "imagenet": "ImageNet",
    "logo": "QMUL-OpenLogo",
    "paris": "Paris StreetView",
    "places2": "Places2",
    "places2-512": "Places2",
    "smoke": "Bundled photographs",
}
"""The dataset of each preset's name; other presets train on the user's images."""
WHOLE = ("squash", "centre_square")
"""Crops of a training that take (nearly) the whole image, which its evaluation does too."""
FREE_FORM = MaskConfig(
    recipe="strokes", min_hole_ratio=0.1, max_hole_ratio=0.4, hole_ratios="uniform"
)
"""Masks of the trainings on two CPU cores."""


def published(
    name: str,
    model: ModelConfig,
    data: BatchConfig,
    steps: int,
    save_every_steps: int = 10_000,
    dataset: str = "folder",
) -> TrainConfig:
    """Return a paper's training on one dataset, on GPUs.

    Args:
        name: name of the dataset; the run goes to ``runs/ARCHITECTURE-NAME``.
        model: the paper's settings.
        data: the paper's data settings, without shards.
        steps: number of steps.
        save_every_steps: number of steps between two checkpoints, each with a sample grid.
        dataset: the public dataset, with the paper's own split.
    """
    return TrainConfig(
        model=model,
        data=replace(data, loader="processes", dataset=dataset),
        storage=f"runs/{model.architecture}-{name}",
        steps=steps,
        use_gpu=True,
        save_every_steps=save_every_steps,
        sample_every_steps=save_every_steps,
        report_every_steps=50,
    )


def on_two_cores(model: ModelConfig, steps: int, **changes: Any) -> TrainConfig:
    """Return a training of at most 45 minutes on two CPU cores, whose results are visible.

    It uses images of 64 px with free-form masks that cover 10 to 40 % of them.

    Args:
        model: the paper's, narrower and without networks that have to be downloaded.
        steps: number of steps.
        changes: further fields of the data settings.
    """
    data = BatchConfig(batch_size=16, image_size_px=64, resize_short_side_px=72, masks=FREE_FORM)
    return TrainConfig(
        model=model,
        data=replace(data, **changes),
        storage=f"runs/{model.architecture}-cpu",
        steps=steps,
        ema_decay=0.999,
        save_every_steps=500,
        sample_every_steps=500,
        report_every_steps=50,
    )


def fine_tuning(model: ModelConfig, data: BatchConfig, steps: int) -> TrainConfig:
    """Return a training on GPUs that starts from a checkpoint of ``jobs/import_weights.py``.

    Args:
        model: as its authors released it, with a tenth of the published learning rates.
        data: the paper's data settings, without shards.
        steps: number of steps; the EMA of the weights is validated and served.
    """
    name = model.architecture
    return replace(
        published("finetuned", model, data, steps, save_every_steps=1000),
        init_from=f"runs/imported/{name}",
        ema_decay=0.999,
    )


def smoke(model: ModelConfig, data: BatchConfig) -> TrainConfig:
    """Return a training of seconds on the images that installed packages carry."""
    return TrainConfig(
        model=model,
        data=replace(data, source=BUNDLED),
        storage=f"runs/smoke/{model.architecture}",
        steps=6,
        save_every_steps=3,
        sample_every_steps=6,
        report_every_steps=2,
        validation_samples=8,
    )


def launch(
    presets: Mapping[str, TrainConfig],
    description: str,
    words: Sequence[str] | None = None,
    tables: Mapping[str, str] | None = None,
) -> None:
    """Run the training of a command line, or print its plan (``--dry-run``).

    Args:
        presets: the job's presets by name.
        description: the job's docstring.
        words: the command line; ``sys.argv[1:]`` if None.
        tables: of the paper that a preset reproduces, such as "SPN, Table 1", by the preset's name.
    """
    config = parse(named(presets), description, words, partial(describe, tables=tables or {}))
    work = "plan of the training of" if config.dry_run else "training"
    data = config.data.shards or config.data.source
    announce_start(f"{work} {config.model.architecture} on {data}: checking data and settings")
    asked, config = config, training.scaled(config)
    if line := training.scaling_line(asked, config):
        print(line, flush=True)
    training.require_weights(config)
    needs_ray = bool(shards_to_make(config))
    if not config.dry_run:
        require_gpu(config.use_gpu)
        needs_ray = needs_ray or config.num_workers > 0
        _announce(config)
    preload = forkserver.TRAINING if config.num_workers else forkserver.WITHOUT_TORCH
    with connect(preload=preload) if needs_ray else nullcontext():
        config = with_shards(config)
        if config.dry_run:
            print("\n".join(plan(config)))
        else:
            _report(config, training.train(config))


def _announce(config: TrainConfig) -> None:
    """Say what will be trained, on how much data, on what, and from which step."""
    config = require_data(config)  # What is wrong is said before anything is announced.
    announce(
        f"training {config.model.architecture}: {config.steps:,} steps of "
        f"{config.data.batch_size} images at {config.data.image_size_px} px, {_hardware(config)}; "
        f"{_training_data(config)}",
        out=config.storage,
        resumes=_resumes(config),
        watch=watching(config.tracking, config.storage),
    )


def _hardware(config: TrainConfig) -> str:
    device = "GPU" if config.use_gpu else "CPU"
    if not config.num_workers:
        return f"in this process on the {device}"
    workers = "1 worker" if config.num_workers == 1 else f"{config.num_workers} workers"
    return f"on {workers}, {device} each" if config.use_gpu else f"on {workers}, CPU only"


def _training_data(config: TrainConfig) -> str:
    """Return how much data there is; a source that is not sharded yet is named."""
    if shards := shards_to_make(config):
        return f"first, {config.data.source} is sharded into {storage.absolute(shards)}"
    training_set, _ = training.find_sets(config.data.shards)
    if names_tars(training_set):
        return f"{len(expand(training_set))} tars at {training_set}"
    return f"{len(read_manifest(training_set)):,} samples in {training_set}"


def _resumes(config: TrainConfig) -> str:
    """Return from which step a run goes on; "" for one that begins."""
    from infill.pipeline import checkpoints

    newest = checkpoints.latest(config.storage, lambda damage: None)  # The training reports it.
    if newest:
        done = checkpoints.read_state(newest)["step"]
        last = ", its last: nothing is left to train" if done >= config.steps else ""
        return f"from step {done:,}{last}"
    return f"from the checkpoint {config.resume_from}" if config.resume_from else ""


def _report(config: TrainConfig, result: TrainResult) -> None:
    """Say what a training has left behind, and which command evaluates it."""
    print(training.summary(result))
    test_set = "" if names_tars(config.data.shards) else test_set_of(config.data.shards)
    command = inpaint_command(result.checkpoint)
    if test_set:
        out = storage.join(result.run, "evaluation")
        # Another crop would measure images that the training has never seen.
        crop = ["--crop", config.data.crop] if config.data.crop in WHOLE else []
        command = typed(
            "evaluate", "--checkpoint", result.checkpoint, "--shards", test_set, "--out", out, *crop
        )
    report_results({"run": result.run}, command)


def named(presets: Mapping[str, TrainConfig]) -> dict[str, TrainConfig]:
    """Return presets whose runs are named after architecture and preset, unless they have names."""
    return {
        name: config
        if config.tracking.run_name
        else override(config, {"tracking.run_name": f"{config.model.architecture} {name}"})
        for name, config in presets.items()
    }


def describe(name: str, config: TrainConfig, tables: Mapping[str, str]) -> str:
    """Describe a preset in one line: data, image size, steps, batch size, hardware, table.

    Args:
        name: name of the preset.
        config: the preset.
        tables: as for :func:`launch`.
    """
    data = config.data
    where = "GPUs" if config.use_gpu else "CPUs"
    weights = f", from the weights of {config.init_from}" if config.init_from else ""
    table = f"; reproduces {tables[name]} of the paper" if name in tables else ""
    return (
        f"{IMAGES_OF.get(name, 'Your photographs')}, {data.image_size_px} px, {config.steps:,} "
        f"steps of {data.batch_size} images on {where}{weights}{table}."
    )


def require_data(config: TrainConfig, *, search: bool = False) -> TrainConfig:
    """Refuse data that is not there, before Ray starts; return the configuration with its shards.

    Args:
        config: the training.
        search: whether it is what trials vary; these have folders of their own, so that the one
            of the preset may hold another run.

    Raises:
        UserError: if the shards, or the images to make them from, are missing or do not fit.
    """
    masks.check_mask_files(config.data.masks)
    if shards := shards_to_make(config):
        recipe = _recipe(config.data, shards)
        if next(iter(open_source(recipe.kind, recipe.source).originals()), None) is None:
            raise UserError(f"{recipe.source} holds no photographs; correct --data.source")
        return config
    config = training.resolve(with_shards(config))
    if not search:
        training.require_same_run(config)
    return config


def with_shards(config: TrainConfig) -> TrainConfig:
    """Shard ``data.source`` unless ``data.shards`` is a finished set. On the driver.

    Bundled images are used only if no shards were named, so that a misspelt name is an error.

    Raises:
        UserError: if there are no images, or they cannot be sharded.
    """
    data = config.data
    if shards := shards_to_make(config):
        made = sharding.make_shards(_recipe(data, shards))
        for split, manifest in made.items():
            print(f"{split}: {len(manifest)} samples in {manifest.location}", flush=True)
    if not data.source or data.shards:
        return config
    return override(config, {"data.shards": _own_shards(config)})


def shards_to_make(config: TrainConfig) -> str:
    """Return where ``data.source`` has yet to be sharded; "" if there is nothing to shard."""
    data = config.data
    if not data.source or (data.source == BUNDLED and data.shards):
        return ""
    shards = data.shards or _own_shards(config)
    return "" if _finished(shards) else shards


def _own_shards(config: TrainConfig) -> str:
    return storage.join(config.storage, "shards")


def _finished(shards: str) -> bool:
    try:
        training_set, _ = training.find_sets(shards)
        if not names_tars(training_set):
            read_manifest(training_set)
    except UserError:
        return False
    return True


def _recipe(data: BatchConfig, out: str) -> ShardConfig:
    if data.source != BUNDLED:
        return ShardConfig(kind=data.dataset, source=data.source, out=out)
    side = max(64, data.image_size_px)
    return ShardConfig(
        kind=BUNDLED,
        out=out,
        photographs_per_shard=4,
        format="jpg",
        resize_short_side_px=side * 3 // 2,
        crop_size_px=side,
        crop_stride_px=side,
    )


def plan(config: TrainConfig) -> list[str]:
    """Return the plan of a training, a line each: parameters, data, memory, time. Trains nothing.

    Raises:
        UserError: if the data is missing or does not fit.
    """
    from infill.models.architecture import load
    from infill.models.flops import size_of

    config = training.resolve(config)
    data = config.data
    training_set, validation_set = training.find_sets(data.shards, data.validation_shards)
    size = size_of(config.model)
    workers = max(1, config.num_workers)
    share = config.data.batch_size // workers
    elastic = config.worker_numbers
    validation = "no validation" if validation_set else "no val set"
    if validation_set and config.validation_samples:
        count = min(len(loading.open_set(validation_set, data)), config.validation_samples)
        validation = f"{count} samples scored at each checkpoint"
    return [
        f"{load(config.model.architecture).name}: {size.generator:,} generator parameters, "
        f"{size.discriminators:,} discriminator parameters",
        *_amounts(config, training_set, share, validation),
        _optimizers(config),
        *([f"elastic: {', '.join(map(str, elastic))} workers"] if len(elastic) > 1 else []),
        *compute_lines(estimate_compute(CostEstimateConfig(train=config))),
        f"checkpoints every {config.save_every_steps:,} steps in {config.storage}",
    ]


def _optimizers(config: TrainConfig) -> str:
    """Return each role's optimizer, and how it computes updates on this training's device."""
    device, model = "cuda" if config.use_gpu else "cpu", config.model
    roles = {"generator": model.optimizer_of("generator")}
    if (other := model.optimizer_of("discriminator")) != roles["generator"]:
        roles["discriminator"] = other
    forms = [f"{role} {one.name}, {implementation_on(one, device)}" for role, one in roles.items()]
    return f"optimizer: {'; '.join(forms)}" if len(forms) > 1 else f"optimizer: {forms[0][10:]}"


def _amounts(config: TrainConfig, training_set: str, share: int, validation: str) -> list[str]:
    """Return the amount of data and of steps; tars without a manifest are not read."""
    workers, size = max(1, config.num_workers), config.data.batch_size
    steps = f"{config.steps:,} steps of {size} samples ({share} a worker)"
    if names_tars(training_set):
        shards = len(expand(training_set))
        held = f"{shards} tars without a manifest, their samples are not counted"
    else:
        manifest = read_manifest(training_set)
        shards, images = len(manifest.shards), size // config.data.masks_per_image
        held = f"{len(manifest):,} samples in {shards} shards"
        steps += f", {len(manifest) / images:,.1f} steps an epoch"
        steps += f", {config.steps * images / len(manifest):,.1f} epochs"
    each = f"{-(-shards // workers)} at most for each of {workers} workers at a time"
    return [f"{held}, {each}; {validation}", steps]
