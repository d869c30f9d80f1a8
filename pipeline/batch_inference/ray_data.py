"""Inpaint a folder on Ray Data: decoding on any CPU, the network in a pool of actors.

    read and split (tasks) -> fill (actors that hold the model) -> composite and write (tasks)

The stages exchange encoded files and tiles, not decoded images, so a block of rows stays small
for any image size. The driver receives only names, with the error of one image (``failure``) or the
error that ends the run (``refusal``).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from infill.pipeline import storage
from infill.pipeline.attempts import NOT_COUNTED, Attempts, counted_attempts
from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.batch_inference.pairs import Pair
from infill.pipeline.batch_inference.runner import Outcome, failure_of, read_files
from infill.pipeline.checkpoints import load_generator, training_size_px
from infill.pipeline.cluster import quiet_data
from infill.pipeline.error_sentences import sentence_of
from infill.pipeline.errors import ImageError, UserError
from infill.pipeline.images import Pixels
from infill.pipeline.inference.pair_files import InpaintOptions, compose, read_pair
from infill.pipeline.inference.predictor import Predictor
from infill.pipeline.progress import shows_everything
from infill.pipeline.registry import readable
from infill.pipeline.serving.config import ReplicaConfig
from infill.pipeline.serving.replica.replica import ServedModel
from infill.pipeline.shared_folders import made_here, require_seen, seen_here

Rows = dict[str, Any]
_ROWS_PER_BLOCK = 16
NO_TILES: Rows = {
    **{"image": b"", "mask": b"", "tiles": b"", "missing": b"", "sizes": b""},
    **{"failure": "", "refusal": ""},
}
"""The columns of a row without tiles."""


def run_offline(
    model: ServedModel, config: BatchInferenceConfig, pairs: list[Pair]
) -> Iterator[Outcome]:
    """Inpaint pairs on the connected Ray and yield each as it is done. Runs on the driver.

    Args:
        model: the version that predicts.
        config: the configuration.
        pairs: the pairs to inpaint.

    Raises:
        UserError: if the disk is full, the store is down, or the model cannot be read.
    """
    if not pairs:
        return
    config = for_model(config, model)
    with quiet_data(), counted_attempts() as attempts:
        for row in _rows(model, config, pairs, attempts).iter_rows():
            if row["refusal"]:
                raise UserError(row["refusal"])
            label = "" if row["failure"] else model.label
            yield Outcome(name=row["name"], failure=row["failure"], model=label, scale=row["scale"])


def _rows(
    model: ServedModel, config: BatchInferenceConfig, pairs: list[Pair], attempts: Attempts
) -> Any:
    """Return the dataset of the pairs' results, which it computes when it is read."""
    import ray

    blocks = -(-len(pairs) // _ROWS_PER_BLOCK)
    own: dict[str, Any] = {"config": config, "attempts": attempts}
    seen = seen_here(config.folder, config.masks, made_here(config.out))
    rows = (
        ray.data.from_items([pair.columns() for pair in pairs], override_num_blocks=blocks)
        .map_batches(
            partial(split_rows, seen=seen, **own), batch_size=_ROWS_PER_BLOCK, num_cpus=0.5
        )
        .map_batches(
            InpaintActor,
            fn_constructor_args=(model, replica_config(config), attempts),
            batch_size=2 * config.batch_size,
            compute=ray.data.ActorPoolStrategy(size=config.num_actors),
            num_cpus=actor_cpus(config),
            num_gpus=int(config.use_gpu),
        )
        .map_batches(partial(finish, **own), batch_size=_ROWS_PER_BLOCK, num_cpus=0.5)
    )
    rows.context.enable_progress_bars = shows_everything()
    return rows


def for_model(config: BatchInferenceConfig, model: ServedModel) -> BatchInferenceConfig:
    """Return the configuration with the model's training size as a tile."""
    size_px = training_size_px(readable(model.location, model.digest))
    return replace(config, tiling=config.tiling.for_model(size_px))


def actor_cpus(config: BatchInferenceConfig) -> float:
    """Return the CPUs that an actor reserves: as configured, if the cluster has them.

    Half a CPU stays for the tasks around the actors, which would wait forever otherwise.
    """
    import ray

    cpus = float(ray.cluster_resources().get("CPU", 1.0))
    return min(config.cpus_per_actor, max((cpus - 0.5) / config.num_actors, 0.1))


def replica_config(config: BatchInferenceConfig) -> ReplicaConfig:
    """Return the settings of an actor's replica."""
    return ReplicaConfig(
        device="cuda" if config.use_gpu else "cpu",
        threads=max(int(config.cpus_per_actor), 1),
        max_batch_size=config.batch_size,
    )


def split_rows(
    rows: Rows,
    config: BatchInferenceConfig,
    attempts: Attempts = NOT_COUNTED,
    seen: Sequence[str] = (),
) -> Rows:
    """Read and decode images and split them into tiles. In a task.

    Returns:
        Columns ``name``, ``output``, ``failure``, ``refusal``, ``image`` and ``mask`` (files);
        ``tiles`` and ``missing`` (raw pixels, one after the other) and ``sizes`` (their heights
        and widths).
    """
    each = [row_of(rows, at) for at in range(len(rows["name"]))]
    try:
        require_seen(seen)
        with attempts.at(f"{rows['name'][0]} (reading)"):
            return columns_of([_split_row(row, config) for row in each])
    except UserError as error:
        refused = {**NO_TILES, "refusal": str(error)}
        return columns_of(
            [{"name": row["name"], "output": row["output"], **refused} for row in each]
        )


def _split_row(columns: Rows, config: BatchInferenceConfig) -> Rows:
    pair = Pair.of_columns(columns)
    row: Rows = {"name": pair.name, "output": columns["output"], **NO_TILES}
    try:
        image, mask = read_files(config, pair)
        return {**row, **split_pair(config, pair.name, image, mask)}
    except (ImageError, FileNotFoundError) as error:
        return {**row, "failure": failure_of(error)}
    except Exception as error:
        return {**row, "refusal": sentence_of(error)}


def split_pair(config: BatchInferenceConfig, name: str, image: bytes, mask: bytes) -> Rows:
    """Return a pair's files with its tiles, as :func:`split_rows` describes them.

    Raises:
        ImageError: if one of them cannot be accepted.
    """
    options = options_of(config, name)
    limit = config.limits.max_pixels
    decoded, hole, layout = read_pair(image, mask, options, limit, config.tiling)
    split = layout.split_tiles(decoded.rgb, hole)
    return {
        "image": image,
        "mask": mask,
        "tiles": b"".join(pixels.tobytes() for pixels, _ in split),
        "missing": b"".join(missing.tobytes() for _, missing in split),
        "sizes": np.asarray(layout.sizes, np.int32).tobytes(),
    }


class InpaintActor:
    """Holds the model and predicts tiles. In an actor of the pool."""

    def __init__(
        self, model: ServedModel, config: ReplicaConfig, attempts: Attempts = NOT_COUNTED
    ) -> None:
        self._config, self._model, self._attempts = config, model, attempts

    @cached_property
    def _predictor(self) -> Predictor:
        require_seen((self._model.location,))
        path = readable(self._model.location, self._model.digest)
        device = self._config.device
        return Predictor.of(load_generator(path, device), device)

    def __call__(self, rows: Rows) -> Rows:
        """Replace every tile by its prediction, size by size."""
        kept = {name: values for name, values in rows.items() if name != "missing"}
        try:
            with self._attempts.at(f"{rows['name'][0]} (predicting)"):
                return {**kept, "tiles": _objects(self._predictions(rows))}
        except Exception as error:
            return {**kept, "refusal": _objects([sentence_of(error)] * len(rows["name"]))}

    def _predictions(self, rows: Rows) -> list[bytes]:
        torch.set_num_threads(self._config.threads)  # applies to the calling thread only
        images = [_cut(*each, 3) for each in zip(rows["tiles"], rows["sizes"], strict=True)]
        holes = [_cut(*each, 1) for each in zip(rows["missing"], rows["sizes"], strict=True)]
        tiles = [
            (image, hole[..., 0])
            for own, missing in zip(images, holes, strict=True)
            for image, hole in zip(own, missing, strict=True)
        ]
        found = iter(self._predictor.predict_tiles(tiles, batch_size=self._config.batch_size))
        return [b"".join(next(found).tobytes() for _ in own) for own in images]


def finish(rows: Rows, config: BatchInferenceConfig, attempts: Attempts = NOT_COUNTED) -> Rows:
    """Paste predictions into their images and write the composites. In a task."""
    each = [row_of(rows, at) for at in range(len(rows["name"]))]
    try:
        with attempts.at(f"{rows['name'][0]} (writing)"):
            return columns_of([_finish(row, config) for row in each])
    except UserError as error:
        return columns_of([_finish({**row, "refusal": str(error)}, config) for row in each])


def _finish(row: Rows, config: BatchInferenceConfig) -> Rows:
    facts = {**{name: row[name] for name in ("name", "failure", "refusal")}, "scale": 1.0}
    if row["failure"] or row["refusal"]:
        return facts
    try:
        data, _, facts["scale"] = composed(config, row)
        storage.write(storage.join(config.out, os.fsdecode(row["output"])), data)
    except ImageError as error:
        return {**facts, "failure": failure_of(error)}
    except Exception as error:
        return {**facts, "refusal": sentence_of(error)}
    return facts


def composed(config: BatchInferenceConfig, row: Rows) -> tuple[bytes, float, float]:
    """Return the composite of a row with predicted tiles, as a file, its hole ratio and scale.

    Raises:
        ImageError: if it cannot be written in the configured format.
    """
    options, limit = options_of(config, row["name"]), config.limits.max_pixels
    decoded, hole, layout = read_pair(row["image"], row["mask"], options, limit, config.tiling)
    predictions = _cut(row["tiles"], row["sizes"], 3)
    file = compose(decoded, hole, layout, predictions, options)
    return file, float(hole.mean()), layout.scale


def options_of(config: BatchInferenceConfig, name: str) -> InpaintOptions:
    """Return the options of one image."""
    return InpaintOptions(
        mode=config.mode,
        mask_rule=config.mask_rule,
        output_format=config.format_of(name),
    )


def row_of(rows: Rows, at: int) -> Rows:
    """Return one row of a batch."""
    return {name: values[at] for name, values in rows.items()}


def columns_of(rows: Sequence[Rows]) -> Rows:
    """Return rows as a batch."""
    return {name: _objects([row[name] for row in rows]) for name in rows[0]}


def _objects(values: Sequence[Any]) -> Any:
    """Return values as a column; NumPy's bytes type would drop trailing zeros."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _cut(data: bytes, sizes: bytes, channels: int) -> list[Pixels]:
    """Split concatenated raw pixels: uint8 [height, width, channels] each."""
    found, start = [], 0
    for height, width in np.frombuffer(sizes, np.int32).reshape(-1, 2).tolist():
        length = height * width * channels
        part = np.frombuffer(data, np.uint8, length, start)
        found.append(part.reshape(height, width, channels))
        start += length
    return found
