"""Decode, inpaint, composite and encode one request; used by every route."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from infill.pipeline.images import Format, MaskForm, MaskRule, Pixels, upright_size
from infill.pipeline.images.codec import is_upload
from infill.pipeline.inference import tiling
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.inference.pair_files import InpaintOptions, compose, fitting
from infill.pipeline.pretrained import PRETRAINED
from infill.pipeline.serving.errors import image_errors_refused
from infill.pipeline.serving.http.auth import CALLER, ApiKey
from infill.pipeline.serving.http.decoders import (
    SMALL_PIXELS,
    DecoderPool,
    MaskTask,
    ReadMask,
    ReadTask,
)
from infill.pipeline.serving.http.request_metrics import RequestMetrics
from infill.pipeline.serving.http.served_models import Backend, ServedModels
from infill.pipeline.serving.http.tracing import Tracing
from infill.pipeline.serving.jobs.config import JobsConfig
from infill.pipeline.serving.limits import LimitsConfig, PixelBudget
from infill.pipeline.serving.replica.replica import GeneratedTile, ServedModel

_MODELS_FRESH_S = 5.0
_MODELS_WITHIN_S = 1.0
"""Seconds that a first request waits for the training size of its model."""


@dataclass(frozen=True, kw_only=True)
class HttpConfig:
    """The settings of the ingress."""

    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """Limits of requests: size, memory, time."""
    tiling: TilingConfig = field(default_factory=TilingConfig)
    """How images of any size are tiled."""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    """Where jobs are kept, and their limits."""
    aliases: tuple[str, ...] = ()
    """Further names of models, such as ``gpt-image-1=spn@champion``."""
    licences: tuple[str, ...] = ()
    """Licences of models for ``/v1/models``, such as ``spn=CC-BY-4.0``."""
    traces: str = ""
    """Address of the collector of traces; "" makes none."""
    web_app: str = ""
    """Folder of a built web application that is served in place of the page."""
    keys: tuple[ApiKey, ...] = ()
    """The accepted API keys; if empty, requests need no key."""
    keys_file: str = ""
    """The file that they come from, read again when it changes."""
    cors_origins: tuple[str, ...] = ()
    """Origins, such as https://app.example.org, whose pages may call the service; "*" for all."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which the service answers, from the Host header; empty: all."""

    @property
    def model_names(self) -> dict[str, str]:
        """The aliases, and the models that they mean."""
        return dict(alias.split("=", 1) for alias in self.aliases)

    def licence_of(self, model: str) -> str | None:
        """Return the licence of a model, None if it is unknown."""
        given = dict(licence.split("=", 1) for licence in self.licences)
        pretrained = PRETRAINED.get(model)
        return given.get(model) or (pretrained.licence if pretrained else None)


@dataclass(frozen=True, kw_only=True)
class InpaintResult:
    """Encoded composites, with model, layout and timings."""

    files: tuple[bytes, ...]
    """One per sample."""
    output_format: Format
    model: ServedModel
    hole_ratio: float
    mask_form: MaskForm
    """What marked the hole."""
    layout: tiling.Layout
    timings: dict[str, float]
    """Milliseconds by stage, and ``batch_size``. Queueing includes the wait for a free network and
    the transfer."""


@dataclass(frozen=True)
class InpaintService:
    """The inpainting that all routes of an application share."""

    backend: Backend
    config: HttpConfig
    budget: PixelBudget
    metrics: RequestMetrics
    decoders: DecoderPool
    tracing: Tracing | None = None

    @cached_property
    def models(self) -> ServedModels:
        """The versions that are served; every route asks here."""
        wait_s = self.config.limits.retry_after_s
        return ServedModels(self.backend, self.config.model_names, wait_s)

    async def inpaint(
        self, options: InpaintOptions, image: bytes, mask: bytes | None
    ) -> InpaintResult:
        """Decode, inpaint and encode one pair.

        Args:
            options: options of the request.
            image: a PNG, JPEG or WebP file, or one of another format that is read.
            mask: a file of the same size; None if the image's transparency marks the hole.

        Raises:
            RequestError: if a file is invalid, or the model is not served.
        """
        started = time.perf_counter()
        options = replace(options, model=self.models.meant(options.model))
        if (caller := CALLER.get()) is not None:
            await caller.charge(options.samples, options.model)
        limit = self.config.limits.max_pixels
        task = ReadTask(
            image=image,
            mask=mask,
            options=options,
            max_pixels=limit,
            tiling=self.config.tiling,
        )
        with image_errors_refused():
            size, pixels = await asyncio.to_thread(_sizes, image, mask, limit)
            tiling = await self._tiling(options.model)
            task = replace(task, options=fitting(options, size), tiling=tiling)
            async with self.budget.spend(pixels * options.samples):
                return await self._inpaint(task, pixels, started)

    async def read_mask(self, mask: bytes, rule: MaskRule | None = None) -> ReadMask:
        """Read a mask, by the one rule of every route.

        Raises:
            RequestError: if the file is invalid, or marks no or all pixels.
        """
        limit = self.config.limits.max_pixels
        with image_errors_refused():
            (height, width), pixels = await asyncio.to_thread(_sizes, mask, None, limit, "mask")
            async with self.budget.spend(height * width):
                task = MaskTask(mask=mask, rule=rule or MaskRule(), max_pixels=limit)
                return await self.decoders.read_mask(task, pixels)

    async def _tiling(self, wanted: str) -> TilingConfig:
        """Return the tiling for a model, with its training size as a tile."""
        for model in await self.models.known(_MODELS_WITHIN_S, _MODELS_FRESH_S):
            if not wanted or model.answers_to(wanted):
                return self.config.tiling.for_model(model.image_size_px)
        return self.config.tiling

    async def _inpaint(self, task: ReadTask, pixels: int, started: float) -> InpaintResult:
        options = task.options
        read = await self.decoders.read(task, pixels)
        image, hole, layout, tiles = read.image, read.hole, read.layout, read.tiles
        options = fitting(options, hole.shape, image.alpha is not None)
        decoded = time.perf_counter()
        filled = await self._fill(options, tiles)
        inpainted = time.perf_counter()
        tiles.clear()  # The composite needs the memory.
        files = []
        for sample in range(options.samples):
            predictions = [one.predictions[sample] for one in filled]
            write = partial(compose, image, hole, layout, predictions, options)
            files.append(await asyncio.to_thread(write))
        done = time.perf_counter()
        compute_s = max(one.compute_s for one in filled)
        timings = {
            "decode_ms": decoded - started,
            "queue_ms": inpainted - decoded - compute_s,
            "compute_ms": compute_s,
            "fill_ms": inpainted - decoded,
            "encode_ms": done - inpainted,
            "total_ms": done - started,
        }
        answer = InpaintResult(
            files=tuple(files),
            output_format=options.output_format,
            model=filled[0].model,
            hole_ratio=read.hole_ratio,
            mask_form=read.mask_form,
            layout=layout,
            timings={
                **{name: round(1000 * seconds, 2) for name, seconds in timings.items()},
                "batch_size": max(one.batch_size for one in filled),
            },
        )
        called = f"{answer.model.name}@{answer.model.version}"
        self.metrics.count_image(called, layout.kind, answer.timings)
        if self.tracing is not None:
            planned, queued = decoded - read.plan_s, inpainted - compute_s
            stages = [
                ("decode", started, planned),
                ("plan", planned, decoded),
                ("queue", decoded, queued),
                ("predict", queued, inpainted),
                ("encode", inpainted, done),
            ]
            about = {"infill.model": called, "infill.canvas": layout.kind, "infill.pixels": pixels}
            self.tracing.record(stages, about)
        return answer

    async def _fill(
        self, options: InpaintOptions, tiles: Sequence[tuple[Pixels, Pixels]]
    ) -> Sequence[GeneratedTile]:
        """Predict every tile of an image, with one version of the model."""
        fills = (
            self.backend.fill(
                options.model, pixels, missing, options.samples, options.seed, options.background
            )
            for pixels, missing in tiles
        )
        try:
            async with asyncio.TaskGroup() as group:  # if one fails, the others are cancelled
                tasks = [group.create_task(fill) for fill in fills]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        filled = [task.result() for task in tasks]
        if len({one.model.digest for one in filled}) == 1:
            return filled
        return await self._fill(options, tiles)  # the champion changed in between: repeat


def _sizes(
    image: bytes, mask: bytes | None, limit: int, what: str = "image"
) -> tuple[tuple[int, int], int]:
    """Return the image's size, and the number of pixels of the larger file, from the headers.

    Decoders of other formats are less tested against hostile files: such a file counts as a large
    one, which is decoded in a process that can be killed.
    """
    size = upright_size(image, limit, what)
    other = (0, 0) if mask is None else upright_size(mask, limit, "mask")
    usual = is_upload(image) and (mask is None or is_upload(mask))
    return size, max(size[0] * size[1], other[0] * other[1], 0 if usual else SMALL_PIXELS + 1)
