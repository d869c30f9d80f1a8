"""The main job, small but nothing faked: from photographs to a served, evaluated SPN.

python jobs/demo.py

Photographs that installed packages carry become shards (Ray Data); SPN is trained on them by two
workers under DDP (Ray Train); a two-by-two search over its loss weights goes on from there (Ray
Tune); the winner is evaluated beside mean fill, Telea and Navier-Stokes, promoted in the MLflow
registry, served (Ray Serve) and asked to fill a batch of whole photographs. It takes less than
ten minutes on two CPU cores. What an earlier demo has finished is reused, stage by stage.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from infill.jobs import make_shards, train_spn
from infill.jobs.batch_inpaint import batch_inpaint
from infill.jobs.promote import PromoteConfig, line, promote
from infill.pipeline import evaluation, sharding, storage, training, tuning
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

STAGES = 7
TRIAL_LEARNING_RATE = 5e-4
"""Half of the main training's: the trials only refine its weights."""
SPACE = {"model.image_weight": [1.0, 10.0], "model.adversarial_weight": [0.01, 0.1]}
"""lambda_1 and lambda_2."""
HOLES = MaskConfig(recipe="irregular", min_hole_ratio=0.1, max_hole_ratio=0.2)
"""Masks of the images sent to the endpoint."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The demo's folder, its numbers of steps and its port."""

    root: str = "runs/demo"
    """Folder for all files of the demo; delete it to start over."""
    steps: int = train_spn.PRESETS["demo"].steps
    """Number of steps of the main training."""
    trial_steps: int = 60
    """Number of steps of each trial of the search."""
    port: int = 8000
    """TCP port of the endpoint; a free one is used if it is taken."""

    def place(self, *parts: str) -> str:
        """Return a location under the root."""
        return storage.join(storage.absolute(self.root), *parts)

    @property
    def tracking(self) -> TrackingConfig:
        """The demo's own MLflow database and files."""
        return TrackingConfig(
            tracking_uri=f"sqlite:///{self.place('mlflow.db')}", artifacts=self.place("mlartifacts")
        )

    @property
    def registry(self) -> RegistryConfig:
        """The same database, as the registry sees it."""
        tracking = self.tracking
        return RegistryConfig(tracking_uri=tracking.tracking_uri, artifacts=tracking.artifacts)


@contextmanager
def stage(number: int, name: str) -> Iterator[Callable[[str], None]]:
    """Announce a stage; yield the function that says what came out of it, and when it ended."""
    print(f"\n[{number}/{STAGES}] {name}", flush=True)
    begin = time.monotonic()
    results: list[str] = []
    yield results.append
    for result in results:
        print(f"  => {result}", flush=True)
    print(f"  ({duration(time.monotonic() - begin)})", flush=True)


def say(text: str) -> None:
    """Show a line of progress under its stage."""
    print(f"  {text}", flush=True)


def shard(config: DemoConfig) -> str:
    """Cut the bundled photographs into crops and shards; test photographs stay apart."""
    with stage(1, "photographs to shards (Ray Data)") as report:
        settings = replace(make_shards.PRESETS["demo"], out=config.place("shards"))
        for split, manifest in sharding.make_shards(settings, say).items():
            report(make_shards.summary(split, manifest))
    return settings.out


def learn(config: DemoConfig, shards: str) -> "TrainResult":
    """Train SPN with two workers under DDP."""
    with stage(2, "training with two workers (Ray Train, DDP)") as report:
        settings = override(
            train_spn.PRESETS["demo"],
            {
                "data.shards": shards,
                "storage": config.place("spn"),
                "steps": config.steps,
                "tracking": config.tracking,
            },
        )
        result = training.train(settings, say)
        report(training.summary(result))
    return result


def sweep(config: DemoConfig, shards: str, base: "TrainResult") -> str:
    """Search two loss weights from the trained weights on; return the best checkpoint of all."""
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
        search = TuneConfig(train=settings, storage=config.place("sweep"))
        result = tuning.tune(search, SPACE, say)
        for text in write_search(result, search.storage, "Search around the demo").splitlines():
            say(text)
        best = result.best
        if best.scores[training.SCORE] >= base.scores[training.SCORE]:
            winner, name = best.checkpoint, best.name
        else:
            winner, name = base.checkpoint, "the training they started from"
        report(f"winner: {name}; table, plot and page in {search.storage}")
    return winner


def judge(config: DemoConfig, shards: str, winner: str) -> "Evaluation":
    """Score the winner and the baselines on photographs no training has seen."""
    with stage(4, "evaluation on the test photographs (Ray Data)") as report:
        settings = EvaluationConfig(
            checkpoint=winner,
            shards=storage.join(shards, "test"),
            out=config.place("evaluation"),
            masks=MaskConfig(recipe="irregular"),
            num_actors=2,
        )
        found = evaluation.evaluate(settings, say)
        report(f"{evaluation.verdict(found)} Report: {found.files['report']}")
    return found


def crown(config: DemoConfig, winner: str, found: "Evaluation") -> "Version":
    """Make the winner spn@champion, with its lineage."""
    with stage(5, "promotion (MLflow registry)") as report:
        version = promote(
            PromoteConfig(
                checkpoint=winner,
                name="spn",
                scores=found.out,
                below_baselines=True,  # After minutes of training it is, and says so.
                registry=config.registry,
            )
        )
        report(f"{line(version, 'champion')} in {config.registry.tracking_uri}")
    return version


def write_request(config: DemoConfig) -> list[str]:
    """Write the whole test photographs and a mask for each, white in the hole; return the names."""
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
            storage.write(config.place("request", f"{name}{suffix}.png"), file)
        names.append(name)
    return names


def serve(config: DemoConfig) -> ServeConfig:
    """Serve the champion and have the endpoint fill the test photographs."""
    from infill.pipeline.serving.replica.deployment import start, stop

    settings = ServeConfig(
        model="spn@champion", port=free_port(config.port), registry=config.registry
    )
    with stage(6, "serving (Ray Serve)") as report:
        url = start(settings)
        report(f"{settings.model} at {url}")
    try:
        with stage(7, "a batch of photographs through the endpoint") as report:
            names = write_request(config)
            filled = batch_inpaint(
                BatchInferenceConfig(
                    folder=config.place("request"), out=config.place("filled"), endpoint=url
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
    """Go through every stage, then say where everything is."""
    begin = time.monotonic()
    config = parse_one(DemoConfig, __doc__ or "", words)
    announce(
        f"demo in {STAGES} stages: {config.steps:,} steps of SPN on 2 workers, four trials of "
        f"{config.trial_steps:,}, evaluation, promotion and a batch of requests, on the CPU",
        out=config.root,
        watch=watching(config.tracking, config.root),
    )
    with connect(dashboard=True):
        shards = shard(config)
        base = learn(config, shards)
        winner = sweep(config, shards, base)
        found = judge(config, shards, winner)
        version = crown(config, winner, found)
        service = serve(config)
    print(f"\n{evaluation.terminal_tables(found)}\n")
    where = {
        "shards": f"{shards}/{{train,val,test}}, each with its manifest.parquet",
        "checkpoint": version.location,
        "grid": found.files["grid"],
        "report": found.files["report"],
        "search": config.place("sweep", "report.html"),
        "filled": config.place("filled"),
    }
    request = config.place("request", "chelsea")
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
