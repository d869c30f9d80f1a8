"""Inpaint images of any kind and size in one call."""

import os
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from infill.pipeline.errors import ImageError, UserError
from infill.pipeline.images import Hole, MaskRule, PilImage, Pixels
from infill.pipeline.inference.config import Mode, TilingConfig, tiles_per_pass
from infill.pipeline.inference.inputs import Input, read_hole, read_input, unbatched
from infill.pipeline.inference.pair_files import require_fitting
from infill.pipeline.inference.predictor import Predictor
from infill.pipeline.inference.tiling import Layout
from infill.pipeline.inference.tiling_plan import plan_tiles

Path = str | os.PathLike[str]
ImageKind = TypeVar("ImageKind", PilImage, NDArray[Any], Tensor)
PathKind = TypeVar("PathKind", bound=Path)
Mask = PilImage | NDArray[Any] | Tensor | Path
Masks = Sequence[Mask] | NDArray[Any] | Tensor
"""The masks of a batch."""


class Inpainter:
    """A model that fills the holes of images; made by :func:`infill.pipeline.inference.load`.

    Safe to share between threads. Pixels outside the hole are returned bit for bit.
    """

    def __init__(
        self,
        predictor: Predictor,
        name: str = "",
        tiling: TilingConfig | None = None,
        mask_rule: MaskRule | None = None,
    ) -> None:
        """Wrap a predictor.

        Args:
            predictor: holds the generator.
            name: name of the model, such as ``spn@3``.
            tiling: how images of any size are tiled; the service's tiling by default.
            mask_rule: which pixels of a mask are the hole; by default those brighter than 127.
        """
        self.predictor, self.name = predictor, name
        self.mask_rule = mask_rule or MaskRule()
        self.tiling = tiling or TilingConfig()

    def __repr__(self) -> str:
        """Return the model's name, device and precision."""
        predictor = self.predictor
        return f"Inpainter({self.name!r}, {str(predictor.device)!r}, {predictor.precision!r})"

    @overload
    def __call__(  # type: ignore[overload-overlap]  # samples is 1 or another number
        self,
        image: ImageKind,
        mask: Mask | Sequence[Mask],
        samples: Literal[1] = 1,
        seed: int | None = None,
        mode: Mode = "auto",
    ) -> ImageKind: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        image: Path,
        mask: Mask,
        samples: Literal[1] = 1,
        seed: int | None = None,
        mode: Mode = "auto",
    ) -> PilImage: ...

    @overload
    def __call__(
        self,
        image: list[ImageKind] | tuple[ImageKind, ...],
        mask: Masks,
        samples: Literal[1] = 1,
        seed: int | None = None,
        mode: Mode = "auto",
    ) -> list[ImageKind]: ...

    @overload
    def __call__(
        self,
        image: list[PathKind] | tuple[PathKind, ...],
        mask: Masks,
        samples: Literal[1] = 1,
        seed: int | None = None,
        mode: Mode = "auto",
    ) -> list[PilImage]: ...

    @overload
    def __call__(
        self,
        image: list[Any] | tuple[Any, ...],
        mask: Masks,
        samples: int = 1,
        seed: int | None = None,
        mode: Mode = "auto",
    ) -> list[Any]: ...

    @overload
    def __call__(
        self,
        image: ImageKind,
        mask: Mask | Sequence[Mask],
        samples: int,
        seed: int | None = None,
        mode: Mode = "auto",
    ) -> list[ImageKind]: ...

    @overload
    def __call__(
        self,
        image: Path,
        mask: Mask,
        samples: int,
        seed: int | None = None,
        mode: Mode = "auto",
    ) -> list[Any]: ...

    def __call__(
        self,
        image: Any,
        mask: Any,
        samples: int = 1,
        seed: int | None = None,
        mode: Mode = "auto",
    ) -> Any:
        """Inpaint the hole of an image, or the holes of several.

        Args:
            image: one of

                - a PIL image of any mode with 8 bits per channel (palettes and CMYK become RGB), or
                  grey with 16 bits (``I;16``);
                - a NumPy array [H, W] or [H, W, C], C from 1 to 4: uint8, uint16, or floating in 0
                  to 1;
                - a tensor [H, W] or [C, H, W], likewise uint8, uint16, or floating in 0 to 1;
                - the path or s3:// address of an image file, turned upright by its EXIF tag and
                  read with 8 bits per channel;

                or a batch: a list or tuple of these, an array [B, H, W, C], or a tensor
                [B, C, H, W].
            mask: the mask, of the same size: of any of these kinds, or bool. The hole is what
                ``mask_rule`` marks, by default pixels brighter than 127 of 255; for a batch, one
                mask for each image.
            samples: number of results for each image; more than one needs a probabilistic model.
            seed: seed of random results. None gives the most likely result, or seed 0 for several.
            mode: how an image larger than the largest tile is processed: ``auto``, ``crop``,
                ``resize``, ``refine``, ``tile`` or ``subsample``, see :func:`plan_tiles`.

        Returns:
            The composite: of the same kind, type and size as ``image``, on the same device; a PIL
            image for a path. With ``samples`` above 1, a list of ``samples`` results. For a list, a
            list of the results of each image; arrays and tensors of a batch are stacked again.

        Raises:
            ImageError: if an image or mask is not accepted, their sizes differ, or the mask marks
                no pixel or all pixels; in a batch it names the pair.
            UserError: if a file does not exist, ``samples``, ``seed`` or ``mode`` is not accepted,
                or a deterministic model is called with several samples.
            TypeError: if ``image`` or ``mask`` is of another kind.
        """
        _require_options(samples, seed, mode)
        images, masks, join = unbatched(image, mask)
        inputs, holes = self._read(images, masks)
        pairs = [(one.rgb, hole) for one, hole in zip(inputs, holes, strict=True)]
        predictions = self.predict(pairs, samples, seed, mode)
        results = [
            [one.result(prediction, hole) for prediction in several]
            for one, hole, several in zip(inputs, holes, predictions, strict=True)
        ]
        if samples == 1:
            return join([several[0] for several in results])
        if isinstance(image, list | tuple):
            return results
        return [join([several[number] for several in results]) for number in range(samples)]

    def _read(self, images: list[Any], masks: list[Any]) -> tuple[list[Input], list[Hole]]:
        """Read images and masks; an error of a batch names the pair, counted from 0."""
        inputs, holes = [], []
        for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
            try:
                inputs.append(read_input(image))
                holes.append(read_hole(mask, self.mask_rule))
                require_fitting(holes[-1], inputs[-1].rgb.shape[:2])
            except ImageError as error:
                if len(images) == 1:
                    raise
                raise ImageError(error.code, f"pair {number}: {error}") from error
        return inputs, holes

    def scale(self, mask: Mask, mode: Mode = "auto") -> float:
        """Return the size at which the network sees the hole of a mask, as a share of its own.

        Args:
            mask: as in :meth:`__call__`; below 1 its prediction is enlarged.
            mode: likewise.

        Raises:
            ImageError: as :meth:`__call__` does for a mask.
        """
        return self._plan(read_hole(mask, self.mask_rule), mode).scale

    def hole_ratio(self, mask: Mask) -> float:
        """Return the share of a mask's pixels that are the hole.

        Raises:
            ImageError: as :meth:`__call__` does for a mask.
        """
        return float(read_hole(mask, self.mask_rule).mean())

    def _plan(self, hole: Hole, mode: Mode) -> Layout:
        try:
            return plan_tiles(hole, self.tiling, mode)
        except ValueError as error:
            raise ImageError("bad_request", str(error)) from error

    def predict(
        self,
        pairs: Sequence[tuple[Pixels, Hole]],
        samples: int = 1,
        seed: int | None = None,
        mode: Mode = "auto",
    ) -> list[list[Pixels]]:
        """Predict the holes of RGB images of any sizes; tiles of one size share passes.

        Args:
            pairs: images, uint8 [H, W, 3], and holes, bool [H, W].
            samples: as in :meth:`__call__`.
            seed: likewise.
            mode: likewise.

        Returns:
            For each image its samples, uint8 [H, W, 3]; only the pixels in the hole are valid.
        """
        if samples > 1 and not self.predictor.can_sample:
            raise UserError(f"{self.name or 'the model'} generates one result: ask for one sample")
        at_random = self.predictor.can_sample and (samples > 1 or seed is not None)
        layouts = [self._plan(hole, mode) for _, hole in pairs]
        tiles = [
            tile
            for (rgb, hole), layout in zip(pairs, layouts, strict=True)
            for tile in layout.split_tiles(rgb, hole)
        ]
        number = samples if at_random else 0
        found = iter(
            self.predictor.predict_tiles(
                tiles, number, seed or 0, lambda h, w: tiles_per_pass(h, w, number)
            )
        )
        results = []
        for (_, hole), layout in zip(pairs, layouts, strict=True):
            own = [next(found) for _ in layout.sizes]
            results.append(
                [layout.merge_tiles([tile[at] for tile in own], hole) for at in range(samples)]
            )
        return results


def _require_options(samples: Any, seed: Any, mode: Any) -> None:
    """Check the options of a call.

    Raises:
        UserError: naming the option.
    """
    if not _is_integer(samples) or samples < 1:
        raise UserError(f"samples must be an integer of at least 1, not {samples!r}")
    if seed is not None and (not _is_integer(seed) or seed < 0):
        raise UserError(f"seed must be None or an integer of at least 0, not {seed!r}")
    if mode not in get_args(Mode):
        known = get_args(Mode)
        raise UserError(f"mode must be one of {', '.join(known)}, not {mode!r}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
