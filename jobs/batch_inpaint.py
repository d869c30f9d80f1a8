"""Fill the holes of a folder of pictures, to files.

python jobs/batch_inpaint.py photos filled --endpoint http://127.0.0.1:8000
python jobs/batch_inpaint.py photos filled --model spn@champion --masks holes
python jobs/batch_inpaint.py photos filled --model runs/train --draw --recipe.recipe strokes

python jobs/batch_inpaint.py runs/shards/test filled-shards --model spn@champion --draw

A shard set becomes a shard set of composites with their masks, each sample once, whatever is
interrupted. With --endpoint a running service fills the pictures of a folder, else the model runs
here on Ray Data. Interrupted, the same command goes on; pictures that could not be filled are
listed in OUT/failures.jsonl.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from infill.pipeline import storage
from infill.pipeline.batch_inference.config import (
    FAILURES,
    SUFFIXES,
    BatchInferenceConfig,
)
from infill.pipeline.cluster import connect
from infill.pipeline.commands import typed
from infill.pipeline.config import parse_one, run
from infill.pipeline.errors import UserError
from infill.pipeline.job_summary import announce, report_results

if TYPE_CHECKING:
    from infill.pipeline.batch_inference.runner import Summary


def batch_inpaint(config: BatchInferenceConfig) -> "Summary":
    """Fill a folder through the endpoint, or offline on the Ray at hand or one of its own."""
    from infill.pipeline.batch_inference.endpoint import endpoint_model, run_on_endpoint
    from infill.pipeline.batch_inference.runner import inpaint_folder
    from infill.pipeline.batch_inference.shards import inpaint_shards, is_shard_set

    shards = is_shard_set(config.folder)
    if config.endpoint:
        if shards:
            raise UserError(
                "a shard set is filled here, on Ray: give --model in place of --endpoint"
            )
        model_name = endpoint_model(config)
        announce_inpainting(config, f"{model_name} at {config.endpoint}")
        return inpaint_folder(config, run_on_endpoint, model_name)
    from infill.pipeline.batch_inference.ray_data import run_offline
    from infill.pipeline.serving.replica.deployment import resolve_model

    model = resolve_model(config.registry, config.model)
    device = "a GPU each" if config.use_gpu else f"{config.cpus_per_actor:g} CPU each"
    processes = "1 process" if config.num_actors == 1 else f"{config.num_actors} processes"
    announce_inpainting(config, f"{model.label} in {processes}, {device}")
    with connect():
        if shards:
            return inpaint_shards(model, config)
        return inpaint_folder(config, partial(run_offline, model), model.label)


def announce_inpainting(config: BatchInferenceConfig, by: str) -> None:
    """Say how many images will be inpainted, by which model, and how many there are already."""
    from infill.pipeline.batch_inference.pairs import list_pairs, list_pictures
    from infill.pipeline.batch_inference.shards import is_shard_set
    from infill.pipeline.manifest import read_manifest

    if is_shard_set(config.folder):
        count, done = len(read_manifest(config.folder)), 0
    else:
        pairs = list_pairs(config.folder, config.masks, SUFFIXES[config.output_format])
        there = set(list_pictures(config.out)) if storage.names(config.out) else set()
        count, done = len(pairs), len(there & {pair.output for pair in pairs})
    announce(
        f"batch inference on {count:,} images of {storage.absolute(config.folder)} by {by}",
        out=config.out,
        resumes=f"after {done:,} images that are there" if done else "",
    )


def main(words: Sequence[str] | None = None) -> None:
    """Fill the folder and say what became of it."""
    config = parse_one(BatchInferenceConfig, __doc__ or "", words)
    summary = batch_inpaint(config)
    print(summary)
    from infill.pipeline.batch_inference.shards import is_shard_set

    if is_shard_set(config.folder):
        report_results({}, typed("inspect_shards", "--shards", storage.absolute(summary.out)))
    if summary.failed:
        raise UserError(f"{summary.failed} could not be filled; see {summary.out}/{FAILURES}")


if __name__ == "__main__":
    run(main)
