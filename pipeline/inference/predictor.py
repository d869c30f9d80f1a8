"""The core of every prediction: a generator on a device, 8-bit pixels in, 8-bit pixels out.

Serving, batch inference, evaluation, validation and visualization all predict here: padding,
precision, sampling and the conversion to pixels have no other implementation.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from infill.models.architecture import SamplingGenerator, fill
from infill.models.config import ModelConfig, Subsampling
from infill.models.masking import crop_to, pad_to_multiple
from infill.models.subsampling import fill_in_pieces
from infill.pipeline.checkpoints import LoadedGenerator
from infill.pipeline.errors import UserError
from infill.pipeline.images import ByteHole, Pixels
from infill.pipeline.inference.config import Precision, tiles_per_pass
from infill.pipeline.inference.transfer import download, upload

Tile = tuple[Pixels, ByteHole]
"""An image, uint8 [H, W, 3], and its hole, uint8 [H, W] with 1 in it."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Predicts images of any size with one generator; independent of files and requests."""

    generator: nn.Module
    """The generator, on ``device`` and in evaluation mode."""
    size_multiple: int
    """Sides are padded to a multiple of this, see :attr:`ModelConfig.size_multiple`."""
    device: str | torch.device = "cpu"
    precision: Precision = "float32"
    """Precision; other than float32 by autocast, as in training."""
    trains_on: bool = False
    """Whether the generator continues training, so that its caches must stay usable by autograd."""

    @classmethod
    def of(
        cls,
        loaded: LoadedGenerator,
        device: str | torch.device = "cpu",
        precision: Precision = "float32",
        *,
        labelled: bool = False,
    ) -> "Predictor":
        """Wrap a checkpoint's generator, which is on ``device`` already.

        Args:
            loaded: the checkpoint.
            device: its device.
            precision: as the field.
            labelled: whether :meth:`predict` will be given label maps.

        Raises:
            UserError: if the generator takes label maps and there are none, or the other way round.
        """
        require_labels(loaded.config, labelled=labelled)
        return cls(
            generator=loaded.generator,
            size_multiple=loaded.config.size_multiple,
            device=device,
            precision=precision,
        )

    @property
    def can_sample(self) -> bool:
        """Whether the generator is probabilistic."""
        return isinstance(self.generator, SamplingGenerator)

    def predict(self, images: Pixels, holes: ByteHole, labels: Pixels | None = None) -> Pixels:
        """Predict whole frames, without randomness.

        Args:
            images: uint8 [B, H, W, 3].
            holes: uint8 [B, H, W], 1 in the hole.
            labels: label maps of the whole images, uint8 [B, H, W, 3], for a generator that takes
                them.

        Returns:
            uint8 [B, H, W, 3]; known pixels are not restored.
        """
        with self._without_gradients():
            guides = () if labels is None else self.tensors(labels, holes)[:1]
            return download(self._values(*self.tensors(images, holes), *guides))

    def predict_in_pieces(
        self, images: Pixels, holes: ByteHole, how: Subsampling, at_once: int
    ) -> Pixels:
        """Predict each frame in strided pieces of one size, as DeepGIN does.

        Args:
            images: as in :meth:`predict`.
            holes: likewise.
            how: size and processing of the pieces.
            at_once: number of pieces of an image in one forward pass.
        """
        with self._without_gradients():
            image, mask = self.tensors(images, holes)
            found = [
                fill_in_pieces(self._values, image[i : i + 1], mask[i : i + 1], how, at_once)
                for i in range(len(image))
            ]
            return download(torch.cat(found))

    def sample(
        self,
        images: Pixels,
        holes: ByteHole,
        samples: int,
        seeds: int | Sequence[int],
        in_one_pass: bool = True,
    ) -> Pixels:
        """Sample several results for each hole.

        Args:
            images: uint8 [B, H, W, 3].
            holes: uint8 [B, H, W], 1 in the hole.
            samples: number of results for each image.
            seeds: one for each image, whose results are then independent of the rest of the batch;
                or one for the whole batch.
            in_one_pass: False samples one after the other, which needs the memory of one.

        Returns:
            uint8 [B, samples, H, W, 3]; known pixels are not put back.

        Raises:
            UserError: if the generator is deterministic.
        """
        generator = self.generator
        if not isinstance(generator, SamplingGenerator):
            raise UserError("the model generates one result: ask for one sample")
        height, width = holes.shape[1:]
        with self._without_gradients():
            image, mask = pad_to_multiple(*self.tensors(images, holes), self.size_multiple)
            noise = _noise(generator, image, samples, seeds)
            parts = [noise] if in_one_pass else torch.split(noise, 1)
            found = []
            for part in parts:
                with self._autocast():
                    final = generator(image, mask, part).final
                found.append(download(crop_to(final, height, width)))
        several = np.concatenate(found).reshape(samples, len(images), height, width, 3)
        return np.ascontiguousarray(several.swapaxes(0, 1))

    def intermediate_results(
        self,
        visualize: Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]],
        image: Pixels,
        hole: ByteHole,
    ) -> dict[str, Pixels]:
        """Return the network's intermediate results as images.

        Args:
            visualize: the architecture's function, see
                :attr:`Architecture.intermediate_results`.
            image: uint8 [H, W, 3].
            hole: uint8 [H, W], 1 in the hole.

        Returns:
            Images by name, uint8 [h, w, 3]; those of the image at some size are without its
            padding.
        """
        height, width = hole.shape
        with self._without_gradients():
            padded = pad_to_multiple(*self.tensors(image[None], hole[None]), self.size_multiple)
            shown = visualize(self.generator, *padded)
        kept = height / padded[0].shape[2], width / padded[0].shape[3]
        found = {}
        for name, result in shown.items():
            if _is_of_the_frame(result, padded[0]):
                rows, columns = result.shape[-2:]
                result = crop_to(result, math.ceil(rows * kept[0]), math.ceil(columns * kept[1]))
            found[name] = download(result)[0]
        return found

    def predict_tiles(
        self,
        tiles: Sequence[Tile],
        samples: int = 0,
        seed: int = 0,
        batch_size: Callable[[int, int], int] = tiles_per_pass,
    ) -> list[Pixels]:
        """Predict tiles of different sizes; those of one size share forward passes.

        Args:
            tiles: in any order.
            samples: number of results of each by :meth:`sample`; 0 for the one deterministic
                result.
            seed: seed of the samples, for every tile.
            batch_size: number of tiles of one size in a forward pass.

        Returns:
            For each tile uint8 [max(samples, 1), H, W, 3].
        """
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (_, hole) in enumerate(tiles):
            by_size[hole.shape].append(number)
        found: dict[int, Pixels] = {}
        for (height, width), numbers in by_size.items():
            limit = batch_size(height, width)
            for start in range(0, len(numbers), limit):
                few = numbers[start : start + limit]
                images = np.stack([tiles[number][0] for number in few])
                holes = np.stack([tiles[number][1] for number in few])
                if samples:
                    predictions = self.sample(images, holes, samples, [seed] * len(few))
                else:
                    predictions = self.predict(images, holes)[:, None]
                found.update(zip(few, predictions, strict=True))
        return [found[number] for number in range(len(tiles))]

    def tensors(self, images: Pixels, holes: ByteHole) -> tuple[Tensor, Tensor]:
        """Return [B, 3, H, W] in [-1, 1] and [B, 1, H, W], 1 in the hole, on the device."""
        return upload(images, holes, self.device)

    def _values(self, image: Tensor, mask: Tensor, labels: Tensor | None = None) -> Tensor:
        with self._autocast():
            return fill(self.generator, image, mask, self.size_multiple, labels)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=getattr(torch, self.precision))

    def _without_gradients(self) -> AbstractContextManager[object]:
        return torch.no_grad() if self.trains_on else torch.inference_mode()


def require_labels(config: ModelConfig, *, labelled: bool) -> None:
    """Refuse a generator that takes label maps where there are none.

    Raises:
        UserError: saying where there are some.
    """
    if config.takes_labels and not labelled:
        raise UserError(
            f"this {config.architecture} fills holes with the help of a label map of the whole "
            "image (segmentation_guided), and none is given here: `python jobs/evaluate.py` reads "
            "them from shards that `jobs/make_shards.py --labels FOLDER` made"
        )


def _is_of_the_frame(result: Tensor, frame: Tensor) -> bool:
    """Return whether an image shows the frame at some size, and not a kernel, for example."""
    height, width = frame.shape[-2:]
    rows, columns = result.shape[-2:]
    return bool(rows * width == columns * height and height % rows == 0)


def _noise(
    generator: SamplingGenerator, image: Tensor, samples: int, seeds: int | Sequence[int]
) -> Tensor:
    """Return noise for each sample of each image: [samples, B, ...]."""
    if isinstance(seeds, int):
        return generator.sample_noise(image, samples, seeds)
    each = [
        generator.sample_noise(one[None], samples, seed)
        for one, seed in zip(image, seeds, strict=True)
    ]
    return torch.cat(each, dim=1)
