"""Inpaint the images of a folder that have no composite yet, and list the failures.

Existing composites are kept, so an interrupted run resumes where it stopped. ``failures.jsonl``
lists each failed image with its error; the next run tries it again.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from infill.pipeline import storage
from infill.pipeline.batch_inference.config import (
    FAILURES,
    SETTINGS,
    SUFFIXES,
    BatchInferenceConfig,
)
from infill.pipeline.batch_inference.pairs import (
    Pair,
    count_unread,
    generate_mask_file,
    list_images,
    list_pairs,
)
from infill.pipeline.config import to_dict
from infill.pipeline.errors import ImageError, UserError, printable
from infill.pipeline.images import HOLE_THRESHOLD
from infill.pipeline.images.conversion import as_upload, mask_as_upload
from infill.pipeline.images.kinds import passed_over_lines
from infill.pipeline.masks import check_mask_files
from infill.pipeline.progress import Log, Progress, duration


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one image."""

    name: str
    failure: str = ""
    """Why there is no composite; empty if there is one."""
    model: str = ""
    """The version that predicted it."""
    scale: float = 1.0
    """The size at which the network saw the hole, as a share of its own."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The summary of a run over a folder."""

    filled: int
    kept: int
    """Number of composites that existed before."""
    failed: int
    seconds: float
    models: tuple[str, ...]
    """The versions that predicted; more than one if the champion changed during the run."""
    out: str
    price_per_hour: float = 0.0
    reduced: int = 0
    """Number of images with a hole so large that it was predicted at reduced size and enlarged."""
    smallest_scale: float = 1.0
    """The smallest size at which a hole was predicted, as a share of its own."""

    def __str__(self) -> str:
        """Return the last line of a job."""
        rate = f", {self.filled / self.seconds:.1f}/s" if self.filled else ""
        if self.filled and self.price_per_hour:
            cost = self.price_per_hour * self.seconds / 3600 / self.filled * 1000
            rate += f", {cost:.3g} per 1,000"
        by = f" by {' and '.join(self.models)}" if self.models else ""
        seen = (
            f", {self.reduced} predicted at reduced size (down to {self.smallest_scale:.2f})"
            if self.reduced
            else ""
        )
        return (
            f"{self.filled} filled{by} in {duration(self.seconds)}{rate}{seen}, {self.kept} kept, "
            f"{self.failed} failed: {self.out}"
        )


_BEFORE_ITS_FIELD = {"mask_threshold": HOLE_THRESHOLD, "mask_channel": "auto"}
"""The values of settings in files of releases that did not have them."""
Run = Callable[[BatchInferenceConfig, list[Pair]], Iterator[Outcome]]


@dataclass(frozen=True, kw_only=True)
class FolderWork:
    """The images of a folder, and those without a composite."""

    pairs: list[Pair]
    missing: list[Pair]

    @property
    def counts(self) -> tuple[int, int]:
        """Number of images, and of those with a composite."""
        return len(self.pairs), len(self.pairs) - len(self.missing)


def begin_folder(config: BatchInferenceConfig, model: str, say: Log = print) -> FolderWork:
    """List the images of a folder, and record settings and model beside the results.

    Args:
        config: the configuration.
        model: the label of the model.
        say: prints one line, for each kind of images that is not read.

    Raises:
        UserError: if there are no images, or ``out`` holds results of other settings.
    """
    storage.require_bucket(config.out)
    if config.generate_masks:
        check_mask_files(config.recipe)
    suffix = SUFFIXES[config.output_format]
    pairs = list_pairs(
        config.folder, "" if config.generate_masks else config.masks, suffix, config.out
    )
    claim(config, model)
    for line in passed_over_lines(count_unread(config.folder)):
        say(line)
    there = set(list_images(config.out, whole=True))
    return FolderWork(pairs=pairs, missing=[pair for pair in pairs if pair.output not in there])


def inpaint_folder(
    config: BatchInferenceConfig, work: FolderWork, run: Run, say: Log = print
) -> Summary:
    """Inpaint the images that have no composite yet.

    Args:
        config: the configuration.
        work: the listed folder, of :func:`begin_folder`.
        run: inpaints pairs and yields the outcome of each, in any order.
        say: prints one line of progress.

    Returns:
        The summary of this run.
    """
    pairs, missing = work.pairs, work.missing
    failures, models, scales, started = [], set(), [], time.monotonic()
    with Progress("batch inference", len(missing), "images", log=say) as progress:
        for done in run(config, missing):
            if done.failure:
                failures.append({"image": done.name, "reason": done.failure})
            else:
                models.add(done.model)
                scales.append(done.scale)
            progress.advance(1, f"{len(failures)} failed" if failures else "")
    write_failures(config.out, failures)
    return Summary(
        filled=len(missing) - len(failures),
        kept=len(pairs) - len(missing),
        failed=len(failures),
        seconds=time.monotonic() - started,
        models=tuple(sorted(models)),
        out=config.out,
        price_per_hour=config.price_per_hour,
        reduced=sum(scale < 1 for scale in scales),
        smallest_scale=min(scales, default=1.0),
    )


def claim(config: BatchInferenceConfig, model: str, data: str = "") -> None:
    """Record the settings and model of the results; refuse to mix them with others.

    Args:
        config: the configuration of the run.
        model: the label of the model.
        data: the digest of the shard set, if it is one.

    Raises:
        UserError: if ``out`` holds results of other settings.
    """
    identity: dict[str, Any] = {
        "folder": storage.absolute(config.folder),
        **({"data": data} if data else {}),
        "model": model,
        "masks": "" if config.generate_masks else config.masks,
        "drawn": {"recipe": to_dict(config.recipe), "seed": config.seed}
        if config.generate_masks
        else None,
        "mask_polarity": config.mask_polarity,
        "mask_threshold": config.mask_threshold,
        "mask_channel": config.mask_channel,
        "mode": config.mode,
        "output_format": config.output_format,
    }
    location = storage.join(config.out, SETTINGS)
    if not storage.exists(location):
        storage.make_folder(config.out)
        storage.write(location, (json.dumps(identity, indent=2) + "\n").encode())
        return
    kept = json.loads(storage.read(location))
    for name, value in identity.items():
        before = kept.get(name, _BEFORE_ITS_FIELD.get(name))
        if before != value:
            raise UserError(
                f"{config.out} holds composites with another {name} ({before}, now "
                f"{value}); choose another output folder"
            )


def write_failures(out: str, failures: list[dict[str, str]]) -> None:
    """Write ``failures.jsonl``, or remove it if nothing failed."""
    location = storage.join(out, FAILURES)
    if not failures:
        storage.remove(location)
        return
    failures = sorted(failures, key=lambda failure: failure["image"])
    storage.write(location, "".join(json.dumps(f) + "\n" for f in failures).encode())


def read_files(config: BatchInferenceConfig, pair: Pair) -> tuple[bytes, bytes]:
    """Return the files of an image and its mask.

    Raises:
        ImageError: if there is no mask and none can be generated for the image, or one of the files
            cannot be read while others can.
        OSError: if files cannot be read.
    """
    image = read_file(pair.image)
    if config.generate_masks:
        limit = config.limits.max_pixels
        image = as_upload(image, limit)
        return image, generate_mask_file(image, pair.name, config.recipe, config.seed, limit)
    if not pair.mask:
        raise ImageError(
            "bad_request",
            "it has no mask: "
            + (pair.hint or "add name_mask.png, or use --masks or --generate-masks"),
        )
    limit = config.limits.max_pixels
    return as_upload(image, limit), mask_as_upload(read_file(pair.mask), limit)


def read_file(location: str) -> bytes:
    """Return a file's bytes.

    Raises:
        ImageError: if this file cannot be read while others can, as a link that leads nowhere.
        OSError: if files cannot be read.
    """
    try:
        return storage.read(location)
    except OSError as error:
        if why := storage.why_unreadable(error):
            message = f"{printable(location)} cannot be read: {why}"
            raise ImageError("bad_request", message) from error
        raise


def failure_of(error: ImageError | FileNotFoundError) -> str:
    """Return the error of one image as a line for ``failures.jsonl``."""
    if isinstance(error, ImageError):
        return f"{error} ({error.code})"
    return f"there is no {printable(str(error.filename or 'such file'))}"
