"""Inpaint pairs with every method and measure the composites, in an actor or in this process."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from infill.pipeline import storage
from infill.pipeline.attempts import NOT_COUNTED, Attempts
from infill.pipeline.baselines import load_baseline
from infill.pipeline.checkpoints import load_generator
from infill.pipeline.error_sentences import sentence_of
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.config import EvaluationConfig
from infill.pipeline.evaluation.metric_networks import load_networks
from infill.pipeline.evaluation.pairs import AT_ONE_SIZE, Pair, Pairs, lay_pairs
from infill.pipeline.image_grid import fit, grid, masked_view
from infill.pipeline.images import ByteHole, Pixels, composite
from infill.pipeline.inference.predictor import Predictor
from infill.pipeline.loading import open_set
from infill.pipeline.masks import Mask, number_for
from infill.pipeline.metrics.metric_registry import measure
from infill.pipeline.shared_folders import require_seen

FEATURES = {"inception": "features", "places365": "features-places365"}
"""Parts with the features of each network of sets, kept until the evaluation ends."""
ORIGINAL = ""
"""Name of the images themselves, in place of a method, in those parts."""
GRID = -1
"""Number of the grid of examples among the parts."""
SHOWN_PX = 256
"""Side in pixels at which images of different sizes are shown."""
STAGES = ("reading_s", "network_s", "baselines_s", "metrics_s", "metric_networks_s")
"""The stages of an actor's work."""


@dataclass(frozen=True, kw_only=True)
class InpaintedPairs:
    """Some pairs and the prediction of every method."""

    pairs: Sequence[Pair]
    images: Pixels
    """[B, H, W, 3]."""
    masks: Sequence[Mask]
    holes: ByteHole
    """[B, H, W], 1 where missing."""
    predictions: dict[str, Pixels]
    """Predictions by method, each [B, H, W, 3], rounded to 8 bits."""


class Scorer:
    """Loads the checkpoint once, then scores parts of an evaluation. Runs in an actor."""

    def __init__(
        self,
        config: EvaluationConfig,
        image_size_px: int,
        parts: str,
        attempts: Attempts = NOT_COUNTED,
        seen: Sequence[str] = (),
    ) -> None:
        """Load the checkpoint and the pairs.

        Args:
            config: the evaluation.
            image_size_px: side of the pairs, if the configuration does not give it.
            parts: folder for the parts.
            attempts: counts the attempts at each part.
            seen: the local paths of the driver that this node must see.
        """
        require_seen(seen)
        # Use the CPUs that the actor has reserved: OpenCV would use every core.
        cv2.setNumThreads(config.cpus_per_actor)
        torch.set_num_threads(config.cpus_per_actor)
        self.config, self.parts, self.attempts = config, parts, attempts
        self.device = "cuda" if config.gpus_per_actor else "cpu"
        self.loaded = load_generator(config.checkpoint, self.device)
        self.predictor = Predictor.of(self.loaded, self.device, labelled=True)
        self.networks = load_networks(config.networks, self.device)
        self.pairs: Pairs = lay_pairs(
            config, open_set(config.shards, config.reading, "--image-member"), image_size_px
        )
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, list[Any]]:
        """Score and write the parts of a block; return their times.

        An error that the user must correct is returned as a sentence in ``error``: raised here, it
        would reach the driver as the text of a traceback, and end all other actors.
        """
        done = [self._try(int(number)) for number in batch["part"]]
        return {name: [costs[name] for costs in done] for name in done[0]}

    def _try(self, number: int) -> dict[str, Any]:
        try:
            with self.attempts.at("the grid" if number == GRID else f"part {number}"):
                return {**self.work(number), "error": ""}
        except Exception as error:
            return {"pairs": 0, **dict.fromkeys(STAGES, 0.0), "error": sentence_of(error)}

    def work(self, number: int) -> dict[str, float]:
        """Score and write one part; return its pairs and the seconds of each stage."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        if number == GRID:
            indices: Sequence[int] = self.pairs.examples(self.config.examples)
            storage.write(storage.join(self.parts, "grid.png"), self._grid(indices))
            return {"pairs": 0, **dict.fromkeys(STAGES, 0.0)}
        indices = self.pairs.part(number)
        rows: list[dict[str, Any]] = []
        pairs: list[dict[str, Any]] = []
        features: dict[str, list[pa.Table]] = {name: [] for name in self.networks.of_sets}
        for few in self.pairs.batches(indices):
            filled = self.fill(few)
            rows += self._rows(filled)
            for name, found in features.items():
                found += self._features(filled, name)
            pairs += [self._frozen(*each) for each in zip(filled.pairs, filled.masks, strict=True)]
        for name, found in features.items():
            location = part_location(self.parts, FEATURES[name], number)
            write_table(location, pa.concat_tables(found))
        # The rows are written last and complete the part.
        write_table(part_location(self.parts, "pairs", number), pa.Table.from_pylist(pairs))
        write_table(part_location(self.parts, "rows", number), pa.Table.from_pylist(rows))
        return {"pairs": len(indices), **self.seconds}

    def fill(self, indices: Iterable[int]) -> InpaintedPairs:
        """Read pairs of one size and let every method predict the whole frame."""
        pairs = [self.pairs[index] for index in indices]
        with self._timed("reading_s"):
            images = np.stack([self.pairs.image(pair) for pair in pairs])
            masks = [self.pairs.mask(pair) for pair in pairs]
            holes = np.stack([mask.hole for mask in masks])
            labels = None
            if self.loaded.config.takes_labels:
                labels = np.stack([self.pairs.labels(pair) for pair in pairs])
        with self._timed("network_s"):
            found = self._predict(images, holes, pairs[0].index, labels)
            predictions = {self.loaded.architecture: found}
        with self._timed("baselines_s"):
            for name in self.config.baselines:
                method = load_baseline(name)
                each = [method(*pair) for pair in zip(images, holes, strict=True)]
                predictions[name] = np.stack(each)
        return InpaintedPairs(
            pairs=pairs, images=images, masks=masks, holes=holes, predictions=predictions
        )

    def _predict(
        self, images: Pixels, holes: ByteHole, first_pair: int, labels: Pixels | None
    ) -> Pixels:
        samples, subsampling = self.config.setting.samples, self.config.setting.subsampling
        in_pieces = bool(subsampling.side_px) and max(holes.shape[1:]) > subsampling.side_px
        if labels is not None:
            if in_pieces:
                raise UserError(AT_ONE_SIZE)
            return self.predictor.predict(images, holes, labels)
        if in_pieces:
            return self.predictor.predict_in_pieces(
                images, holes, subsampling, self.config.batch_size
            )
        if samples == 1:
            return self.predictor.predict(images, holes)
        seed = number_for("sample", self.config.seed, first_pair) % 2**63
        found = self.predictor.sample(images, holes, samples, seed, in_one_pass=False)
        return best_samples(found.swapaxes(0, 1), images, holes)

    def measure(self, filled: InpaintedPairs) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Return every metric of every method's composites, each [B]."""
        images = torch.from_numpy(filled.images).to(self.device)
        masks = torch.from_numpy(filled.holes)[:, None].float().to(self.device)
        chosen, found = self.config.measured, {}
        for method, pasted in self._composites(filled).items():
            with self._timed("metrics_s"):
                composites = torch.from_numpy(pasted).to(self.device)
                measured = measure(composites, images, masks, chosen)
                found[method] = {name: values.cpu().numpy() for name, values in measured.items()}
            if self.networks.lpips is not None:
                found[method]["lpips"] = self._lpips(pasted, filled.images)
        return found

    def _composites(self, filled: InpaintedPairs) -> dict[str, Pixels]:
        return {
            method: composite(predicted, filled.images, filled.holes)
            for method, predicted in filled.predictions.items()
        }

    def _lpips(self, composites: Pixels, images: Pixels) -> NDArray[np.float64]:
        """Return the LPIPS of composites, [B]."""
        assert self.networks.lpips is not None
        with self._timed("metric_networks_s"), torch.inference_mode():
            ours, theirs = (torch.from_numpy(p).to(self.device) for p in (composites, images))
            distances: Tensor = self.networks.lpips(ours, theirs)
            return distances.double().cpu().numpy()

    def _features(self, filled: InpaintedPairs, network: str) -> list[pa.Table]:
        """Return a network's features of every composite, and of each image once."""
        see = self.networks.of_sets[network]
        rows = [pair.row for pair in filled.pairs]
        _, firsts = np.unique(rows, return_index=True)
        originals = [filled.pairs[index] for index in firsts]
        found = [self._look(see, ORIGINAL, originals, filled.images[firsts])]
        for method, pasted in self._composites(filled).items():
            found.append(self._look(see, method, filled.pairs, pasted))
        return found

    def _look(
        self, network: nn.Module, method: str, pairs: Sequence[Pair], composites: Pixels
    ) -> pa.Table:
        with self._timed("metric_networks_s"), torch.inference_mode():
            seen = network(torch.from_numpy(composites).to(self.device)).cpu().numpy()
        flat = pa.array(seen.ravel(), pa.float32())
        return pa.table(
            {
                "method": [method] * len(pairs),
                "pair": [pair.index for pair in pairs],
                "row": [pair.row for pair in pairs],
                "features": pa.FixedSizeListArray.from_arrays(flat, seen.shape[1]),
            }
        )

    def _rows(self, filled: InpaintedPairs) -> list[dict[str, Any]]:
        measured = self.measure(filled)
        return [
            {
                **_identity(pair, mask),
                "method": method,
                **{name: float(values[index]) for name, values in found.items()},
            }
            for index, (pair, mask) in enumerate(zip(filled.pairs, filled.masks, strict=True))
            for method, found in measured.items()
        ]

    def _frozen(self, pair: Pair, mask: Mask) -> dict[str, Any]:
        """Return a pair with its hole in it, one bit per pixel, rows first."""
        height, width = mask.hole.shape
        return {
            **_identity(pair, mask),
            "in_all": pair.group.in_all,
            "image_sha256": self.pairs.manifest.samples["sha256"][pair.row].as_py(),
            "height_px": height,
            "width_px": width,
            "hole": np.packbits(mask.hole).tobytes(),
        }

    def _grid(self, indices: Sequence[int]) -> bytes:
        shown = [self._grid_rows(self.fill(few)) for few in self.pairs.batches(indices)]
        rows = [row for found, _ in shown for row in found]
        captions = [caption for _, found in shown for caption in found]
        titles = ["image", "masked input", f"{self.loaded.architecture}, prediction"]
        return grid(rows, [*titles, self.loaded.architecture, *self.config.baselines], captions)

    def _grid_rows(self, filled: InpaintedPairs) -> tuple[list[list[Pixels]], list[str]]:
        measured = self.measure(filled)
        rows, captions = [], []
        for index, (image, hole) in enumerate(zip(filled.images, filled.holes, strict=True)):
            predicted = {method: found[index] for method, found in filled.predictions.items()}
            pasted = [composite(prediction, image, hole) for prediction in predicted.values()]
            first = predicted[self.loaded.architecture]
            row = [image, masked_view(image, hole), first, *pasted]
            whole = self.pairs.crop == "original"
            rows.append([fit(cell, SHOWN_PX) for cell in row] if whole else row)
            values = {name: found["hole_psnr"][index] for name, found in measured.items()}
            captions.append(_caption(filled.pairs[index], filled.masks[index], values))
        return rows, captions

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start


def best_samples(samples: Pixels, images: Pixels, holes: ByteHole) -> Pixels:
    """Return for each pair the sample whose composite has the highest PSNR over the image.

    Args:
        samples: [samples, B, H, W, 3].
        images: [B, H, W, 3].
        holes: [B, H, W], 1 where missing.
    """
    pasted = composite(samples, images[None], holes[None]).astype(np.int64)
    errors = np.square(pasted - images[None]).sum(axis=(2, 3, 4))
    best: Pixels = samples[errors.argmin(axis=0), np.arange(len(images))]
    return best


def part_location(parts: str, kind: str, number: int) -> str:
    """Return the location of the rows or pairs of a part."""
    return storage.join(parts, f"{kind}-{number:06d}.parquet")


def write_table(location: str, table: pa.Table) -> None:
    """Write a Parquet file atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write(location, sink.getvalue().to_pybytes())


def read_table(location: str) -> pa.Table:
    """Read a Parquet file."""
    return storage.table_of(storage.read(location))


def _identity(pair: Pair, mask: Mask) -> dict[str, Any]:
    return {
        "pair": pair.index,
        "key": pair.key,
        "source": pair.source,
        "mask_id": mask.id,
        "group": pair.group.name,
        "hole_ratio": mask.hole_ratio,
    }


def _caption(pair: Pair, mask: Mask, hole_psnr_by_method: dict[str, float]) -> str:
    values = ", ".join(f"{name} {value:.1f}" for name, value in hole_psnr_by_method.items())
    return f"{pair.key}   hole {100 * mask.hole_ratio:.0f} %   PSNR in the hole (dB): {values}"
