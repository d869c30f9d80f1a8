"""Pairs of a folder through Ray Data: decoding on any CPU, the network in a pool of actors.

    read and lay out (tasks) -> fill (actors that hold the model) -> composite and write (tasks)

Between the stages travel the encoded files and the canvas, not decoded photographs, so a block
of rows stays small whatever the pictures' size. Nothing but names comes back to the driver.
"""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.checkpoints import load_generator
from pipeline.serving import canvas, images
from pipeline.serving.app import AppConfig, Wish, compose, read_pair
from pipeline.serving.errors import Refusal
from pipeline.serving.folder import Done, FolderConfig, failure_of, read_files
from pipeline.serving.model import ReplicaConfig, ServedModel, draw
from pipeline.serving.pairs import Pair

Rows = dict[str, Any]
_ROWS_PER_BLOCK = 16


def run_offline(model: ServedModel, config: FolderConfig, pairs: list[Pair]) -> Iterator[Done]:
    """Fill pairs on the Ray at hand and yield each as it is done. Runs on the driver.

    Args:
        model: the version that draws.
        config: the folder and how to fill it.
        pairs: what is to be filled.
    """
    if not pairs:
        return
    import ray

    cpus = ray.cluster_resources().get("CPU", 1.0)
    # Half a CPU stays for the tasks around the actors, which would wait forever otherwise.
    actor_cpus = min(config.cpus_per_actor, max((cpus - 0.5) / config.num_actors, 0.1))
    blocks = -(-len(pairs) // _ROWS_PER_BLOCK)
    rows = (
        ray.data.from_items([asdict(pair) for pair in pairs], override_num_blocks=blocks)
        .map_batches(partial(lay_out, config=config), batch_size=_ROWS_PER_BLOCK, num_cpus=0.5)
        .map_batches(
            Filler,
            fn_constructor_args=(model.location, _replica_config(config)),
            batch_size=2 * config.batch_size,
            compute=ray.data.ActorPoolStrategy(size=config.num_actors),
            num_cpus=actor_cpus,
            num_gpus=int(config.use_gpu),
        )
        .map_batches(partial(finish, config=config), batch_size=_ROWS_PER_BLOCK, num_cpus=0.5)
    )
    rows.context.enable_progress_bars = False  # one line of progress is enough, and is ours
    with _quiet():
        for row in rows.iter_rows():
            label = "" if row["failure"] else model.label
            yield Done(name=row["name"], failure=row["failure"], model=label)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data from printing plans, and tracebacks of errors that we raise."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _replica_config(config: FolderConfig) -> ReplicaConfig:
    return ReplicaConfig(
        device="cuda" if config.use_gpu else "cpu",
        threads=max(int(config.cpus_per_actor), 1),
        max_batch_size=config.batch_size,
    )


def lay_out(rows: Rows, config: FolderConfig) -> Rows:
    """Read, decode and lay pictures on canvases. In a task.

    Returns:
        Columns ``name``, ``output``, ``failure``, ``image`` and ``mask`` (files), ``canvas`` and
        ``missing`` (raw pixels), ``height`` and ``width`` of the canvas.
    """
    laid = [_lay_out(Pair(**_row(rows, at)), config) for at in range(len(rows["name"]))]
    return _columns(laid)


def _lay_out(pair: Pair, config: FolderConfig) -> Rows:
    row: Rows = {
        **{"name": pair.name, "output": pair.output, "failure": ""},
        **{"image": b"", "mask": b"", "canvas": b"", "missing": b"", "height": 0, "width": 0},
    }
    try:
        image, mask = read_files(config, pair)
        picture, hole, frame = read_pair(_app_config(config), _wish(config, pair.name), image, mask)
    except (Refusal, OSError) as error:
        return {**row, "failure": failure_of(error)}
    laid, missing = canvas.lay(picture.rgb, hole, frame)
    height, width = missing.shape
    pixels = {"canvas": laid.tobytes(), "missing": missing.tobytes()}
    return {**row, "image": image, "mask": mask, **pixels, "height": height, "width": width}


class Filler:
    """Holds the model and fills canvases. In an actor of the pool."""

    def __init__(self, location: str, config: ReplicaConfig) -> None:
        self._config = config
        self._loaded = load_generator(location, config.device)

    def __call__(self, rows: Rows) -> Rows:
        """Replace each canvas by its prediction, size by size."""
        predictions = list(rows["canvas"])
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for at, failure in enumerate(rows["failure"]):
            if not failure:
                by_size[int(rows["height"][at]), int(rows["width"][at])].append(at)
        for (height, width), places in by_size.items():
            limit = self._config.batch_size(height, width)
            for start in range(0, len(places), limit):
                self._fill(rows, places[start : start + limit], (height, width), predictions)
        kept = {name: values for name, values in rows.items() if name != "missing"}
        return {**kept, "canvas": _objects(predictions)}

    def _fill(
        self, rows: Rows, places: Sequence[int], size: tuple[int, int], predictions: list[bytes]
    ) -> None:
        laid = np.stack([_pixels(rows["canvas"][at], (*size, 3)) for at in places])
        missing = np.stack([_pixels(rows["missing"][at], size) for at in places])
        drawn = draw(self._loaded, self._config, laid, missing)
        for at, prediction in zip(places, drawn, strict=True):
            predictions[at] = prediction.tobytes()


def finish(rows: Rows, config: FolderConfig) -> Rows:
    """Paste predictions into their pictures and write the composites. In a task."""
    done = [_finish(_row(rows, at), config) for at in range(len(rows["name"]))]
    return _columns(done)


def _finish(row: Rows, config: FolderConfig) -> Rows:
    if row["failure"]:
        return {"name": row["name"], "failure": row["failure"]}
    wish = _wish(config, row["name"])
    picture, hole, frame = read_pair(_app_config(config), wish, row["image"], row["mask"])
    prediction = _pixels(row["canvas"], (int(row["height"]), int(row["width"]), 3))
    try:
        data = compose(picture, hole, frame, prediction, wish)
    except Refusal as error:
        return {"name": row["name"], "failure": failure_of(error)}
    storage.write(storage.join(config.out, row["output"]), data)
    return {"name": row["name"], "failure": ""}


def _app_config(config: FolderConfig) -> AppConfig:
    return AppConfig(limits=config.limits, canvas=config.canvas)


def _wish(config: FolderConfig, name: str) -> Wish:
    return Wish(
        mode=config.mode,
        white_is_hole=config.draw or config.mask_polarity == "white",
        output_format=config.format_of(name),
    )


def _row(rows: Rows, at: int) -> Rows:
    return {name: values[at] for name, values in rows.items()}


def _columns(rows: Sequence[Rows]) -> Rows:
    return {name: _objects([row[name] for row in rows]) for name in rows[0]}


def _objects(values: Sequence[Any]) -> Any:
    """Return values as a column; NumPy alone would cut bytes off at their trailing zeros."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _pixels(data: bytes, shape: tuple[int, ...]) -> images.Pixels:
    return np.frombuffer(data, np.uint8).reshape(shape)
