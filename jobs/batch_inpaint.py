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

from infill.pipeline.batch_inference.config import FAILURES, BatchInferenceConfig
from infill.pipeline.cluster import connect
from infill.pipeline.config import parse_one, run
from infill.pipeline.errors import UserError

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
        return inpaint_folder(config, run_on_endpoint, endpoint_model(config))
    from infill.pipeline.batch_inference.ray_data import run_offline
    from infill.pipeline.serving.replica.deployment import resolve_model

    model = resolve_model(config.registry, config.model)
    with connect():
        if shards:
            return inpaint_shards(model, config)
        return inpaint_folder(config, partial(run_offline, model), model.label)


def main(words: Sequence[str] | None = None) -> None:
    """Fill the folder and say what became of it."""
    summary = batch_inpaint(parse_one(BatchInferenceConfig, __doc__ or "", words))
    print(summary)
    if summary.failed:
        raise UserError(f"{summary.failed} could not be filled; see {summary.out}/{FAILURES}")


if __name__ == "__main__":
    run(main)
