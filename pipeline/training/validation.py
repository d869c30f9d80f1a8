"""Validate a generator during training: scores and grids of fixed samples."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from infill.pipeline import storage
from infill.pipeline.image_grid import sample_grid
from infill.pipeline.images import ByteHole, Pixels, composite
from infill.pipeline.inference.predictor import Predictor
from infill.pipeline.loading import BatchConfig, InpaintingDataset
from infill.pipeline.manifest import Manifest
from infill.pipeline.masks import HOLE_RATIO_BUCKETS, bucket_of
from infill.pipeline.metrics.metric_registry import DECIDING, VALIDATED, Metric
from infill.pipeline.tracking import Record, Report
from infill.pipeline.training.config import TrainConfig


class Validator:
    """Scores and shows the same samples of the val set, with the same masks each time."""

    def __init__(self, config: TrainConfig, device: torch.device, manifest: Manifest) -> None:
        self.config, self.device = config, device
        self.pairs: list[tuple[Pixels, ByteHole]] = []
        self.labels: list[Pixels | None] = []
        maker = InpaintingDataset(_fixed(config.data), manifest, augment=False)
        side = config.data.image_size_px
        self.metrics: list[Metric] = [m for m in VALIDATED if m.least_side_px <= side]
        count = min(config.validation_samples, len(manifest))
        rows = np.linspace(0, len(manifest) - 1, count).round().astype(int)
        for row in rows.tolist():
            sample = maker.make(row, epoch=0)
            self.pairs.append((sample.pixels, np.ascontiguousarray(sample.hole)))
            self.labels.append(sample.labels)

    def _predict(self, generator: nn.Module, number: int) -> Pixels:
        """Return the prediction of a pair, by its number."""
        (image, hole), labels = self.pairs[number], self.labels[number]
        predictor = Predictor(
            generator=generator.eval(),
            size_multiple=self.config.model.size_multiple,
            device=self.device,
            trains_on=True,
        )
        guides = None if labels is None else labels[None]
        prediction: Pixels = predictor.predict(image[None], hole[None], guides)[0]
        return prediction

    def scores(self, generator: nn.Module) -> dict[str, float]:
        """Return the mean of every validated metric of the 8-bit composites.

        ``hole_psnr/0.1-0.2`` and so on are the means over holes of those published ranges. The
        generator is left in evaluation mode.

        Raises:
            UserError: if a metric's function returns anything but a finite number.
        """
        names = [metric.name for metric in self.metrics]
        deciding = names.index(DECIDING.name)
        sums = torch.zeros(len(HOLE_RATIO_BUCKETS) + 1, len(names) + 1, dtype=torch.float64)
        for number, (image, hole) in enumerate(self.pairs):
            pasted = composite(self._predict(generator, number), image, hole)
            ours, theirs = (torch.from_numpy(pixels)[None] for pixels in (pasted, image))
            mask = torch.from_numpy(hole).float()[None, None]
            found = [metric.of_each(ours, theirs, mask).item() for metric in self.metrics]
            scored = torch.tensor([*found, 1.0], dtype=torch.float64)
            sums[-1] += scored
            if bucket := bucket_of(mask.mean().item()):
                sums[HOLE_RATIO_BUCKETS.index(bucket)] += scored
        means = (sums[-1, :-1] / sums[-1, -1]).tolist()
        return dict(zip(names, means, strict=True)) | {
            f"{DECIDING.name}/{low:g}-{high:g}": (row[deciding] / row[-1]).item()
            for (low, high), row in zip(HOLE_RATIO_BUCKETS, sums[:-1], strict=True)
            if row[-1]
        }

    def write_grid(self, generator: nn.Module, step: int, report: Report) -> None:
        """Write a grid of a few samples into the run; the generator stays in evaluation mode."""
        shown = range(len(self.pairs))[:: max(1, len(self.pairs) // 6)][:6]
        images = np.stack([self.pairs[number][0] for number in shown])
        holes = np.stack([self.pairs[number][1] for number in shown])
        predictions = np.stack([self._predict(generator, number) for number in shown])
        location = storage.join(self.config.storage, "samples", f"step-{step:09d}.png")
        storage.write(location, sample_grid(images, holes, predictions))
        text = f"sample grid {location}"
        report(Record(kind="image", step=step, text=text, image=location))


def _fixed(data: BatchConfig) -> BatchConfig:
    """Return the training's data settings for fixed samples: centred crops, masks of the end."""
    return replace(
        data,
        crop="centre" if data.crop == "random" else data.crop,
        masks=replace(data.masks, curriculum_steps=0),
        seed=0,
    )
