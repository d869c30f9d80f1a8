"""Inpaint a folder of images, or a shard set, to files.

python jobs/batch_inpaint.py photos filled --endpoint http://127.0.0.1:8000
python jobs/batch_inpaint.py photos filled --masks holes
python jobs/batch_inpaint.py photos filled --model spn@champion --masks holes
python jobs/batch_inpaint.py photos filled --generate-masks --recipe.recipe strokes

python jobs/batch_inpaint.py runs/shards/test filled-shards --model spn@champion --generate-masks

A shard set becomes a shard set of composites and their masks. With --endpoint, a running service
inpaints the images; without it, the model runs here on Ray Data. Without --model, the model is
`infill-base`, which comes with the package. If the job is interrupted, run the same command again:
it inpaints the images that are left. OUT/failures.jsonl lists the images that failed.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from infill.pipeline import storage
from infill.pipeline.batch_inference.config import FAILURES, BatchInferenceConfig
from infill.pipeline.cluster import connect, require_gpu
from infill.pipeline.commands import typed
from infill.pipeline.config import parse_one, run
from infill.pipeline.errors import UserError
from infill.pipeline.job_summary import announce, announce_start, report_results

if TYPE_CHECKING:
    from infill.pipeline.batch_inference.runner import Summary


def batch_inpaint(config: BatchInferenceConfig) -> "Summary":
    """Inpaint a folder or shard set through an endpoint, or with a model on Ray.

    Without an endpoint the job joins the Ray that it was submitted to, or starts a local one.

    Returns:
        How many images were inpainted, kept from an earlier run, or failed.

    Raises:
        UserError: if the endpoint does not answer, the model does not exist, or OUT holds the
            results of other settings.
    """
    from infill.pipeline.batch_inference.endpoint import endpoint_model, run_on_endpoint
    from infill.pipeline.batch_inference.runner import begin_folder, inpaint_folder
    from infill.pipeline.batch_inference.shards import begin_shards, inpaint_shards, is_shard_set

    shards = is_shard_set(config.folder)
    if config.endpoint:
        if shards:
            raise UserError(
                "a shard set is filled here, on Ray: give --model in place of --endpoint"
            )
        name = endpoint_model(config)
        work = begin_folder(config, name)
        announce_inpainting(config, f"{name} at {config.endpoint}", *work.counts)
        return inpaint_folder(config, work, run_on_endpoint)
    from infill.pipeline.batch_inference.ray_data import run_offline
    from infill.pipeline.serving.replica.deployment import resolve_model

    require_gpu(config.use_gpu)
    model = resolve_model(config.registry, config.local_model)
    device = "a GPU each" if config.use_gpu else f"{config.cpus_per_actor:g} CPU each"
    processes = "1 process" if config.num_actors == 1 else f"{config.num_actors} processes"
    by = f"{model.label} in {processes}, {device}"
    if shards:
        announce_inpainting(config, by, len(begin_shards(config, model.label)[1]))
        with connect():
            return inpaint_shards(model, config)
    work = begin_folder(config, model.label)
    announce_inpainting(config, by, *work.counts)
    with connect():
        return inpaint_folder(config, work, partial(run_offline, model))


def announce_inpainting(config: BatchInferenceConfig, by: str, count: int, done: int = 0) -> None:
    """Print how many images will be inpainted, by which model, and how many are finished.

    Args:
        config: the configuration.
        by: the model, and what it runs on.
        count: number of images.
        done: number of those with a composite.
    """
    announce(
        f"batch inference on {count:,} images of {storage.absolute(config.folder)} by {by}",
        out=config.out,
        resumes=f"after {done:,} images that are there" if done else "",
    )


def main(words: Sequence[str] | None = None) -> None:
    """Inpaint the folder and print the result; an image that failed makes the job fail."""
    config = parse_one(BatchInferenceConfig, __doc__ or "", words)
    announce_start(f"batch inference on {config.folder}: listing images and reading the model")
    summary = batch_inpaint(config)
    print(summary)
    from infill.pipeline.batch_inference.shards import is_shard_set

    if is_shard_set(config.folder) and summary.filled + summary.kept:
        report_results({}, typed("inspect_shards", "--shards", storage.absolute(summary.out)))
    if summary.failed:
        raise UserError(f"{summary.failed} could not be filled; see {summary.out}/{FAILURES}")


if __name__ == "__main__":
    run(main)
