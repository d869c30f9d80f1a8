"""Run every stage on a small scale: from photographs to a fine-tuned, evaluated, served model.

python jobs/demo.py

The photographs of installed packages become shards (Ray Data). Two workers train SPN on them from
random weights (Ray Train, DDP). A two-by-two search over its loss weights starts from the result
(Ray Tune). A few minutes are too short for a network that starts from random weights. So
`infill-base`, the network in the package, is fine-tuned on the same photographs. It is evaluated
beside mean fill, Telea and Navier-Stokes, promoted in the MLflow registry and served (Ray Serve).
The endpoint then inpaints a batch of whole photographs. The demo takes less than eight minutes on
two CPU cores. A second demo reuses the stages that an earlier one finished.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from infill.jobs import make_shards, train_spn, train_unet
from infill.jobs.batch_inpaint import batch_inpaint
from infill.jobs.promote import PromoteConfig, line, promote
from infill.pipeline import evaluation, forkserver, sharding, storage, training, tuning
from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.cluster import connect
from infill.pipeline.commands import typed
from infill.pipeline.config import override, parse_one, run
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import EvaluationConfig
from infill.pipeline.job_summary import announce, registry_words, report_results, watching
from infill.pipeline.masks import MaskConfig
from infill.pipeline.progress import duration
from infill.pipeline.registry import RegistryConfig
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.sources import open_source
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.tuning import TuneConfig

if TYPE_CHECKING:
    from infill.pipeline.evaluation import Evaluation
    from infill.pipeline.registry import Version
    from infill.pipeline.training import TrainResult

STAGES = 8
TRIAL_LEARNING_RATE = 5e-4
"""Half of the main training's: the trials only refine its weights."""
SPACE = {"model.image_weight": [1.0, 10.0], "model.adversarial_weight": [0.01, 0.1]}
"""lambda_1 and lambda_2."""
NAME = "demo"
"""The registered model's name."""
BUCKETS = ((0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4))
"""Ranges of hole ratio of the evaluation."""
HOLE_PSNR = "hole PSNR on the validation photographs"
HOLES = MaskConfig(recipe="irregular", min_hole_ratio=0.1, max_hole_ratio=0.2)
"""Masks of the images sent to the endpoint."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The demo's folder, its numbers of steps and its port."""

    root: str = "runs/demo"
    """Folder for all files of the demo; delete it to start over."""
    steps: int = train_spn.PRESETS["demo"].steps
    """Number of steps of SPN's training."""
    fine_tuning_steps: int = train_unet.PRESETS["finetune"].steps
    """Number of steps for which `infill-base` is fine-tuned."""
    trial_steps: int = 60
    """Number of steps of each trial of the search."""
    port: int = 8000
    """TCP port of the endpoint; a free one is used if it is taken."""

    def path(self, *parts: str) -> str:
        """Return a location under the root."""
        return storage.join(storage.absolute(self.root), *parts)

    @property
    def tracking(self) -> TrackingConfig:
        """The demo's own MLflow database and files."""
        return TrackingConfig(
            tracking_uri=f"sqlite:///{self.path('mlflow.db')}", artifacts=self.path("mlartifacts")
        )

    @property
    def registry(self) -> RegistryConfig:
        """The same database, as the registry sees it."""
        tracking = self.tracking
        return RegistryConfig(tracking_uri=tracking.tracking_uri, artifacts=tracking.artifacts)


@contextmanager
def stage(number: int, name: str) -> Iterator[Callable[[str], None]]:
    """Print a stage's heading; yield the function that takes its results, printed at its end."""
    print(f"\n[{number}/{STAGES}] {name}", flush=True)
    begin = time.monotonic()
    results: list[str] = []
    yield results.append
    for result in results:
        print(f"  => {result}", flush=True)
    print(f"  ({duration(time.monotonic() - begin)})", flush=True)


def log(text: str) -> None:
    """Print a line of progress, indented under its stage."""
    print(f"  {text}", flush=True)


def shard(config: DemoConfig) -> str:
    """Write the bundled photographs as shards of crops; return the folder of the sets."""
    with stage(1, "photographs to shards (Ray Data)") as report:
        settings = replace(make_shards.PRESETS["demo"], out=config.path("shards"))
        for split, manifest in sharding.make_shards(settings, log).items():
            report(make_shards.summary(split, manifest))
    return settings.out


def train_from_scratch(config: DemoConfig, shards: str) -> "TrainResult":
    """Train SPN from random weights with two workers under DDP."""
    with stage(2, "SPN from random weights, two workers (Ray Train, DDP)") as report:
        result = run_training(config, train_spn.PRESETS["demo"], shards, "spn", config.steps)
        report(training.summary(result))
    return result


def run_training(
    config: DemoConfig, preset: training.TrainConfig, shards: str, folder: str, steps: int
) -> "TrainResult":
    """Train a preset on the demo's shards, into a folder of the demo."""
    changes = {
        "data.shards": shards,
        "storage": config.path(folder),
        "steps": steps,
        "tracking": config.tracking,
    }
    return training.train(override(preset, changes), log)


def sweep(config: DemoConfig, shards: str, base: "TrainResult") -> float:
    """Search two loss weights, starting from the trained weights; return the best PSNR in dB."""
    from infill.pipeline.reporting.search import write_search

    with stage(3, "two-by-two search over lambda_1 and lambda_2 (Ray Tune)") as report:
        settings = override(
            train_spn.PRESETS["demo"],
            {
                "data.shards": shards,
                "init_from": base.checkpoint,
                "steps": config.trial_steps,
                "model.learning_rate": TRIAL_LEARNING_RATE,
                "save_every_steps": config.trial_steps,
                "sample_every_steps": config.trial_steps,
                "tracking": config.tracking,
            },
        )
        search = TuneConfig(train=settings, storage=config.path("sweep"))
        result = tuning.tune(search, SPACE, log)
        for text in write_search(result, search.storage, "Search around the demo").splitlines():
            log(text)
        best = max(result.best.scores[training.SCORE], base.scores[training.SCORE])
        report(
            f"SPN's best {HOLE_PSNR}: {best:.2f} dB within {config.steps + config.trial_steps:,} "
            f"steps; its paper takes {train_spn.PRESETS['paris'].steps:,} on Paris StreetView. "
            f"Table, plot and page: {search.storage}"
        )
    return best


def fine_tune(config: DemoConfig, shards: str, spn: float) -> "TrainResult":
    """Fine-tune the network that comes with the package; compare it with SPN."""
    with stage(4, "fine-tuning infill-base, two workers (Ray Train, DDP)") as report:
        preset = train_unet.PRESETS["finetune"]
        result = run_training(config, preset, shards, "base", config.fine_tuning_steps)
        report(training.summary(result))
        report(f"{HOLE_PSNR}: {result.scores[training.SCORE]:.2f} dB; SPN's was {spn:.2f} dB")
    return result


def evaluate(config: DemoConfig, shards: str, checkpoint: str) -> "Evaluation":
    """Evaluate the checkpoint and the baselines on the test photographs."""
    with stage(5, "evaluation on the test photographs (Ray Data)") as report:
        settings = EvaluationConfig(
            checkpoint=checkpoint,
            shards=storage.join(shards, "test"),
            out=config.path("evaluation"),
            masks=MaskConfig(recipe="irregular"),
            buckets=BUCKETS,
            num_actors=2,
        )
        found = evaluation.evaluate(settings, log)
        report(f"{evaluation.verdict(found)} Report: {found.files['report']}")
    return found


def promote_champion(config: DemoConfig, checkpoint: str, found: "Evaluation") -> "Version":
    """Promote the fine-tuned network to demo@champion, with its lineage."""
    with stage(6, "promotion (MLflow registry)") as report:
        version = promote(
            PromoteConfig(
                checkpoint=checkpoint,
                name=NAME,
                scores=found.out,  # Refused if a classical method were better.
                registry=config.registry,
            )
        )
        report(f"{line(version, 'champion')} in {config.registry.tracking_uri}")
    return version


def write_request(config: DemoConfig) -> list[str]:
    """Write the test photographs uncropped, with a mask each, white in the hole; return names."""
    from infill.pipeline.images import decode_original, encode_mask, encode_png, read_header
    from infill.pipeline.masks import generate_mask

    source, names = open_source("bundled", ""), []
    for original in source.originals():
        if original.split != "test":
            continue
        name = Path(original.path).stem
        data = source.read(original)
        image = decode_original(data, read_header(data))
        hole = generate_mask(HOLES, name, 0, 0, *image.shape[:2]).hole
        for suffix, file in (("", encode_png(image)), ("_mask", encode_mask(hole))):
            storage.write(config.path("request", f"{name}{suffix}.png"), file)
        names.append(name)
    return names


def serve(config: DemoConfig) -> ServeConfig:
    """Serve the champion, and inpaint the test photographs through the endpoint.

    Raises:
        UserError: if the endpoint failed on a photograph.
    """
    from infill.pipeline.serving.replica.deployment import start, stop

    settings = ServeConfig(
        model=f"{NAME}@champion", port=free_port(config.port), registry=config.registry
    )
    with stage(7, "serving (Ray Serve)") as report:
        url = start(settings)
        report(f"{settings.model} at {url}")
    try:
        with stage(8, "a batch of photographs through the endpoint") as report:
            names = write_request(config)
            filled = batch_inpaint(
                BatchInferenceConfig(
                    folder=config.path("request"), out=config.path("filled"), endpoint=url
                )
            )
            if filled.failed:
                raise UserError(f"{filled.failed} of {len(names)} requests failed: {filled.out}")
            report(str(filled))
    finally:
        stop()
    return settings


def free_port(port: int) -> int:
    """Return the port, or a free one if something else is listening there."""
    from infill.pipeline.serving.replica.deployment import choose_port

    try:
        return choose_port("127.0.0.1", port)
    except UserError:
        return choose_port("127.0.0.1", 0)


def main(words: Sequence[str] | None = None) -> None:
    """Run every stage, then print where its files are."""
    begin = time.monotonic()
    config = parse_one(DemoConfig, __doc__ or "", words)
    announce(
        f"demo in {STAGES} stages: {config.steps:,} steps of SPN on 2 workers, four trials of "
        f"{config.trial_steps:,}, {config.fine_tuning_steps:,} steps from infill-base, evaluation, "
        "promotion and a batch of requests, on the CPU",
        out=config.root,
        watch=watching(config.tracking, config.root),
    )
    with connect(dashboard=True, preload=forkserver.TRAINING):
        shards = shard(config)
        spn = sweep(config, shards, train_from_scratch(config, shards))
        checkpoint = fine_tune(config, shards, spn).checkpoint
        found = evaluate(config, shards, checkpoint)
        version = promote_champion(config, checkpoint, found)
        service = serve(config)
    print(f"\n{evaluation.terminal_tables(found)}\n")
    where = {
        "shards": f"{shards}/{{train,val,test}}, each with its manifest.parquet",
        "checkpoint": version.location,
        "grid": found.files["grid"],
        "report": found.files["report"],
        "search": config.path("sweep", "report.html"),
        "filled": config.path("filled"),
    }
    request = config.path("request", "chelsea")
    words = ["--model", service.model, "--port", str(service.port)]
    report_results(
        where,
        typed("serve", *words, *registry_words(config.registry)),
        f"curl -F image=@{request}.png -F mask=@{request}_mask.png "
        f"http://127.0.0.1:{service.port}/v1/inpaint -o filled.png",
        why=f"\nDone in {duration(time.monotonic() - begin)}. Serve the champion again and, from "
        "another terminal, repeat the first request.",
    )


if __name__ == "__main__":
    run(main)
