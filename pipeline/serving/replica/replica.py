"""The models of a replica: loaded in the background, replaced at once, called in batches.

This module does not use Ray: ``deployment.py`` makes a deployment of :class:`Replica`.
"""

import asyncio
import logging
import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from infill.pipeline.checkpoints import load_generator
from infill.pipeline.cluster import cap_gpu_memory
from infill.pipeline.images import Pixels
from infill.pipeline.inference.predictor import Predictor
from infill.pipeline.registry import readable
from infill.pipeline.serving.config import ReplicaConfig
from infill.pipeline.serving.errors import RequestError, shortened
from infill.pipeline.serving.replica.batcher import Batcher
from infill.pipeline.serving.replica.device_check import DeviceCheck, DeviceError
from infill.pipeline.serving.replica.model_cache import ModelCache
from infill.pipeline.shared_folders import require_seen

log = logging.getLogger("infill.serving")

PASSES_ON_GPU = 2
"""Number of forward passes in flight on a GPU: one is computed while the other is copied."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One version that is served, as ``GET /v1/models`` shows it."""

    name: str
    reference: str
    """The configured reference, such as ``spn@champion``."""
    version: str
    digest: str
    location: str
    """Location of the checkpoint's directory, the same for every node; see
    :func:`infill.pipeline.registry.readable`."""

    architecture: str = ""
    """Name of the architecture; "" until a replica has loaded it."""
    image_size_px: int = 0
    """Side of the images that it was trained on; 0 until a replica has loaded it."""
    several_samples: bool = False
    """Whether it is probabilistic."""

    @property
    def label(self) -> str:
        """The value of the header ``X-Infill-Model``."""
        return f"{self.name}@{self.version} ({self.digest[:12]})"

    def answers_to(self, wanted: str) -> bool:
        """Return whether a request for ``wanted`` means this version."""
        return wanted in (self.name, self.reference, f"{self.name}@{self.version}")


@dataclass(frozen=True, kw_only=True)
class GeneratedTile:
    """The prediction of one tile."""

    predictions: Pixels
    """uint8 [samples, H, W, 3], the size of the tile."""
    model: ServedModel
    batch_size: int
    """Number of tiles in the forward pass."""
    compute_s: float
    """Duration of the forward pass in seconds."""


@dataclass
class CanaryCount:
    """Results of new versions (canaries) on requests in one replica."""

    answers: int = 0
    failures: int = 0
    """Number of requests that the old version had to serve instead, and of versions that failed to
    load."""
    replica: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Identifies the replica."""


@dataclass(frozen=True)
class _Shown:
    """A served version that was loaded at least once."""

    model: ServedModel
    several: bool
    """Whether it is probabilistic."""
    architecture: str
    image_size_px: int
    """Side of the images that it was trained on."""

    @property
    def described(self) -> ServedModel:
        """The model with what is known since it was loaded."""
        return replace(
            self.model,
            architecture=self.architecture,
            image_size_px=self.image_size_px,
            several_samples=self.several,
        )


@dataclass(frozen=True)
class _Tile:
    image: Pixels
    mask: Pixels
    seed: int | None


class _Key(NamedTuple):
    """The common properties of the tiles of one forward pass."""

    model: str
    height: int
    width: int
    samples: int
    """Number of samples; 0 for the one deterministic result."""


class Replica:
    """Predicts tiles with the versions of its last configuration."""

    def __init__(self, config: ReplicaConfig) -> None:
        self._config = config
        self._cache: ModelCache[Predictor] = ModelCache(_bytes_of, int(config.memory_gb * 1e9))
        self._trained: dict[str, tuple[str, int]] = {}
        self._shown: tuple[_Shown, ...] = ()
        self._canaries: tuple[_Shown, ...] = ()
        self._canary_share = 0.0
        self._canary_count = CanaryCount()
        self._swap = threading.Lock()
        self._device_check = DeviceCheck(config.device)
        self._batcher: Batcher[_Key, _Tile, GeneratedTile] = Batcher(
            self._compute,
            lambda key: config.batch_size(key.height, key.width, key.samples),
            config.batch_wait_timeout_s,
            at_once=PASSES_ON_GPU if config.device == "cuda" else 1,
        )
        cap_gpu_memory(config.gpu_memory_share)
        torch.set_num_threads(config.threads)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve these versions from now on.

        Called in a thread while requests are served: new versions are loaded and tested first, then
        all are swapped in one assignment. A version that stays is not loaded again.

        Args:
            user_config: ``{"models": [...]}`` with the fields of :class:`ServedModel`; for a canary
                phase, also ``"canaries"`` with the same fields and ``"canary_share"``, the share of
                the requests for their reference that they serve. A canary that cannot be loaded
                counts as failed; nothing else changes.

        Raises:
            UserError: if a checkpoint is missing or damaged; the previous versions stay.
        """
        wanted = [ServedModel(**values) for values in user_config["models"]]
        canaries = [ServedModel(**values) for values in user_config.get("canaries", ())]
        with self._swap:
            shown = tuple(self._show(model) for model in wanted)
            self._take(wanted[0])  # The most requested version is evicted last.
            self._shown = shown
            self._canary_count = CanaryCount()
            self._canary_share = float(user_config.get("canary_share", 0.0))
            found = [self._try_to_show(model) for model in canaries]
            self._canaries = tuple(canary for canary in found if canary)
            self._cache.keep({model.digest for model in (*wanted, *canaries)})
        log.info("serving %s", ", ".join(model.label for model in (*wanted, *canaries)))

    def _show(self, model: ServedModel) -> _Shown:
        predictor = self._take(model)
        architecture, image_size_px = self._trained[model.digest]
        return _Shown(model, predictor.can_sample, architecture, image_size_px)

    def _take(self, model: ServedModel) -> Predictor:
        """Return a version's generator, from the cache or from its checkpoint."""
        return self._cache.take(model.digest, lambda: self._load(model))

    def _take_again(self, model: ServedModel) -> Predictor:
        """Return a generator that may have been evicted.

        Raises:
            RequestError: 503 if its checkpoint can no longer be read.
        """
        try:
            return self._take(model)
        except Exception as error:
            log.exception("%s cannot be loaded again", model.label)
            raise RequestError(
                503, "not_ready", f"{model.name} cannot be loaded just now; try again", 5
            ) from error

    def _try_to_show(self, model: ServedModel) -> _Shown | None:
        try:
            return self._show(model)
        except Exception:
            log.exception("canary %s cannot be loaded", model.label)
            self._canary_count.failures += 1
            return None

    def _load(self, model: ServedModel) -> Predictor:
        device = self._config.device
        require_seen((model.location,))
        loaded = load_generator(readable(model.location, model.digest), device)
        if self._config.compile:
            loaded.generator.compile()
        predictor = Predictor.of(loaded, device, self._config.precision)
        self._trained[model.digest] = (loaded.architecture, loaded.image_size_px)
        for side in sorted({loaded.image_size_px, *self._config.warm_sides_px}):
            torch.set_num_threads(self._config.threads)  # applies to the calling thread only
            for size in self._config.warm_batch_sizes(side):
                grey = np.full((size, side, side, 3), 127, np.uint8)
                predictor.predict(grey, np.ones((size, side, side), np.uint8))
        return predictor

    async def check_health(self) -> None:
        """Raise if this replica has no model or its device computes no more.

        Serve calls this every few seconds, and replaces a replica that raises repeatedly.
        """
        if not self._shown:
            raise RuntimeError("no model is loaded")
        await self._device_check.run()

    async def describe(self) -> list[ServedModel]:
        """Return the versions served now; the first is the default model."""
        return [shown.described for shown in (*self._shown, *self._canaries)]

    async def canary_count(self) -> CanaryCount:
        """Return the results of the canaries here since they were configured."""
        return self._canary_count

    async def fill(
        self,
        wanted: str,
        image: Pixels,
        mask: Pixels,
        samples: int = 1,
        seed: int | None = None,
        background: bool = False,
    ) -> GeneratedTile:
        """Predict one tile, in a batch with others of its size.

        Args:
            wanted: a model's name, reference or version; the first that is served if empty.
            image: uint8 [H, W, 3].
            mask: uint8 [H, W], 1 in the hole.
            samples: number of results.
            seed: seed of random results; with None and one sample the result is deterministic.
            background: whether interactive tiles go first.

        Raises:
            RequestError: 404 if the model is not served, 400 if several samples are requested from
                a deterministic one.
        """
        shown = self._choose(wanted)
        model, several = shown.model, shown.several
        if samples > 1 and not several:
            raise RequestError(
                400, "bad_request", f"{model.name} generates one result: ask for one sample"
            )
        sampled = several and (samples > 1 or seed is not None)
        pinned = wanted == f"{model.name}@{model.version}"
        reference = wanted if pinned else model.reference
        height, width = mask.shape
        key = _Key(reference, height, width, samples if sampled else 0)
        tile = _Tile(image, mask, seed)
        canary = None if pinned else self._canary_for(model)
        if canary is not None:
            tried = key._replace(model=f"{canary.model.name}@{canary.model.version}")
            try:
                filled = await self._batcher.submit(tried, tile, background)
            except Exception:
                self._canary_count.failures += 1
                log.exception("canary %s failed; the old version answers", canary.model.label)
            else:
                self._canary_count.answers += 1
                return filled
        return await self._batcher.submit(key, tile, background)

    async def fill_many(
        self,
        wanted: str,
        tiles: Sequence[tuple[Pixels, Pixels, int | None]],
        samples: int = 1,
    ) -> list[GeneratedTile | RequestError]:
        """Predict the tiles of one call, each as :meth:`fill` does.

        Args:
            wanted: the model of all tiles.
            tiles: image, mask and seed of each.
            samples: number of results of each.

        Returns:
            For each tile its prediction or its error.
        """

        async def fill_one(
            image: Pixels, mask: Pixels, seed: int | None
        ) -> GeneratedTile | RequestError:
            try:
                return await self.fill(wanted, image, mask, samples, seed)
            except RequestError as refusal:
                return refusal

        return await asyncio.gather(*(fill_one(*tile) for tile in tiles))

    def _canary_for(self, model: ServedModel) -> _Shown | None:
        """Return the canary that serves this request instead of a version, or None."""
        if random.random() >= self._canary_share:
            return None
        alike = (one for one in self._canaries if one.model.reference == model.reference)
        return next(alike, None)

    def _choose(self, wanted: str) -> _Shown:
        for shown in (*self._shown, *self._canaries):
            if not wanted or shown.model.answers_to(wanted):
                return shown
        there = ", ".join(f"{s.model.name}@{s.model.version}" for s in self._shown)
        raise RequestError(
            404, "unknown_model", f"no model {shortened(wanted)!r} is served; there is {there}"
        )

    async def _compute(self, key: _Key, tiles: Sequence[_Tile]) -> list[GeneratedTile]:
        shown = self._choose(key.model)  # chosen now: a swap since the request arrived takes effect
        started = time.perf_counter()
        images = np.stack([tile.image for tile in tiles])
        masks = np.stack([tile.mask for tile in tiles])
        seeds = [tile.seed or 0 for tile in tiles]

        def predict() -> Pixels:
            torch.set_num_threads(self._config.threads)  # applies to the calling thread only
            predictor = self._take_again(shown.model)
            if key.samples:
                return predictor.sample(images, masks, key.samples, seeds)
            return predictor.predict(images, masks)[:, None]

        try:
            generated = await asyncio.to_thread(predict)
        except Exception as error:
            await self._refuse_if_the_device_is_dead(error)
            raise
        compute_s = time.perf_counter() - started
        return [
            GeneratedTile(
                predictions=predictions,
                model=shown.model,
                batch_size=len(tiles),
                compute_s=compute_s,
            )
            for predictions in generated
        ]

    async def _refuse_if_the_device_is_dead(self, error: Exception) -> None:
        """Distinguish a dead device from a defect of the service.

        Raises:
            RequestError: 503 if this replica is to be replaced; another may answer.
        """
        try:
            await self._device_check.run()
        except DeviceError as dead:
            log.error("%s; this replica is being replaced", dead)
            raise RequestError(
                503, "not_ready", "a device has failed and its replica is being replaced", 5
            ) from error


def _bytes_of(predictor: Predictor) -> int:
    tensors = [*predictor.generator.parameters(), *predictor.generator.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def served_model(values: Mapping[str, str]) -> ServedModel:
    """Return the model of :func:`version_info`'s values."""
    return ServedModel(
        name=values["name"],
        reference=values["reference"],
        version=values["version"],
        digest=values["digest"],
        location=values["location"],
    )


def version_info(model: ServedModel) -> dict[str, str]:
    """Return which version a served model is, as JSON values."""
    names = ("name", "reference", "version", "digest", "location")
    return {name: getattr(model, name) for name in names}
