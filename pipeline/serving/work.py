"""From two files to one: decode, fill, composite, encode. What every route does."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from pipeline.serving import canvas, images, plan
from pipeline.serving.canvas import CanvasConfig
from pipeline.serving.errors import Refusal
from pipeline.serving.images import Format, Hole, Picture, Pixels
from pipeline.serving.keys import ApiKey
from pipeline.serving.limits import LimitsConfig, PixelBudget
from pipeline.serving.metrics import Metrics
from pipeline.serving.model import Filled, ServedModel


class Backend(Protocol):
    """What fills canvases: a replica in this process, or many behind a handle."""

    async def fill(
        self, wanted: str, image: Pixels, mask: Pixels, samples: int, seed: int | None
    ) -> Filled:
        """Fill one canvas; see :meth:`pipeline.serving.model.Replica.fill`."""
        ...

    async def describe(self) -> list[ServedModel]:
        """Return the versions that are served."""
        ...


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """What the ingress needs to know."""

    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What a request may cost."""
    canvas: CanvasConfig = field(default_factory=CanvasConfig)
    """How images of any size meet the network."""
    keys: tuple[ApiKey, ...] = ()
    """Who may ask; anyone if empty."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a caller asked for, apart from the picture itself."""

    model: str = ""
    mode: canvas.Mode = "auto"
    white_is_hole: bool = True
    output_format: Format = "png"
    samples: int = 1
    """How many pictures; more than one only from models that draw at random."""
    seed: int | None = None
    """Of random draws; None is the model's single best picture, or 0 for several."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Composites, encoded, and how they came about."""

    files: tuple[bytes, ...]
    """One per sample."""
    output_format: Format
    model: ServedModel
    hole_ratio: float
    layout: canvas.Layout
    timings: dict[str, float]
    """Milliseconds by stage, and ``batch_size``. Queueing is the wait for a free network, and the
    way there and back."""


@dataclass(frozen=True)
class Workshop:
    """What the routes of one application share."""

    backend: Backend
    config: AppConfig
    budget: PixelBudget
    metrics: Metrics

    async def inpaint(self, wish: Wish, image: bytes, mask: bytes | None) -> Answer:
        """Decode, fill and encode one pair.

        Args:
            wish: what was asked for.
            image: a PNG, JPEG or WebP file.
            mask: a file of the same size; None if the image's transparency marks the hole.

        Raises:
            Refusal: if a file cannot be accepted, or no such model is served.
        """
        started = time.perf_counter()
        height, width = images.upright_size(image, self.config.limits.max_pixels)
        async with self.budget.spend(height * width * wish.samples):
            return await self._inpaint(wish, image, mask, started)

    async def _inpaint(
        self, wish: Wish, image: bytes, mask: bytes | None, started: float
    ) -> Answer:
        read = partial(_read_and_lay, self.config, wish, image, mask)
        picture, hole, layout, canvases = await asyncio.to_thread(read)
        decoded = time.perf_counter()
        filled = await self._fill(wish, canvases)
        drawn = time.perf_counter()
        files = []
        for sample in range(wish.samples):
            predictions = [one.predictions[sample] for one in filled]
            write = partial(compose, picture, hole, layout, predictions, wish)
            files.append(await asyncio.to_thread(write))
        done = time.perf_counter()
        compute_s = max(one.compute_s for one in filled)
        timings = {
            "decode_ms": decoded - started,
            "queue_ms": drawn - decoded - compute_s,
            "compute_ms": compute_s,
            "fill_ms": drawn - decoded,
            "encode_ms": done - drawn,
            "total_ms": done - started,
        }
        answer = Answer(
            files=tuple(files),
            output_format=wish.output_format,
            model=filled[0].model,
            hole_ratio=float(hole.mean()),
            layout=layout,
            timings={
                **{name: round(1000 * seconds, 2) for name, seconds in timings.items()},
                "batch_size": max(one.batch_size for one in filled),
            },
        )
        called = f"{answer.model.name}@{answer.model.version}"
        self.metrics.note_picture(called, layout.kind, answer.timings)
        return answer

    async def _fill(
        self, wish: Wish, canvases: Sequence[tuple[Pixels, Pixels]]
    ) -> Sequence[Filled]:
        """Fill every canvas of an image, by one version of the model."""
        fills = (
            self.backend.fill(wish.model, laid, missing, wish.samples, wish.seed)
            for laid, missing in canvases
        )
        try:
            async with asyncio.TaskGroup() as group:  # where one fails, the others are cancelled
                tasks = [group.create_task(fill) for fill in fills]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        filled = [task.result() for task in tasks]
        if len({one.model.digest for one in filled}) == 1:
            return filled
        return await self._fill(wish, canvases)  # the champion changed in between: once more


def read_pair(
    config: AppConfig, wish: Wish, image: bytes, mask: bytes | None
) -> tuple[Picture, Hole, canvas.Layout]:
    """Decode a pair, refuse what cannot be filled, and plan its canvases.

    Raises:
        Refusal: 400, 413 or 415, with the code of what is wrong.
    """
    limit = config.limits.max_pixels
    picture = images.decode(image, limit)
    hole = (
        _own_hole(picture) if mask is None else images.decode_mask(mask, limit, wish.white_is_hole)
    )
    if hole.shape != picture.pixels.shape[:2]:
        sizes = [f"{width} × {height}" for height, width in (picture.pixels.shape[:2], hole.shape)]
        raise Refusal(
            400,
            "different_sizes",
            f"the image is {sizes[0]}, the mask {sizes[1]}: send a mask of the image's size",
        )
    _refuse_all_or_nothing(hole, wish, mask is None)
    try:
        return picture, hole, plan.plan(hole, config.canvas, wish.mode)
    except ValueError as error:
        raise Refusal(400, "bad_request", str(error)) from error


def _read_and_lay(
    config: AppConfig, wish: Wish, image: bytes, mask: bytes | None
) -> tuple[Picture, Hole, canvas.Layout, list[tuple[Pixels, Pixels]]]:
    picture, hole, layout = read_pair(config, wish, image, mask)
    return picture, hole, layout, layout.lay(picture.rgb, hole)


def _own_hole(picture: Picture) -> Hole:
    """Take what is not opaque as hole: a soft eraser leaves a seam otherwise."""
    if picture.alpha is None:
        raise Refusal(
            400, "bad_request", "there is no mask: send one, or an image with transparency"
        )
    hole: Hole = picture.alpha < 255
    return hole


def _refuse_all_or_nothing(hole: Hole, wish: Wish, own: bool) -> None:
    if not hole.any():
        reason = f"no pixel is brighter than {images.HOLE_THRESHOLD}"
        if own:
            reason = "every pixel of the image is opaque"
        elif not wish.white_is_hole:
            reason = "every pixel is white"
        raise Refusal(400, "empty_mask", f"nothing is marked as hole: {reason}")
    if hole.all():
        raise Refusal(
            400,
            "full_mask",
            "the whole image is marked as hole; if black means hole, send mask_polarity=black",
        )


def compose(
    picture: Picture,
    hole: Hole,
    layout: canvas.Layout,
    predictions: Sequence[Pixels],
    wish: Wish,
) -> bytes:
    """Return the composite as a file: known pixels as they were, the prediction in the hole."""
    lifted = layout.lift(predictions, hole)
    return images.encode(images.fill_in(picture, hole, lifted), wish.output_format)
