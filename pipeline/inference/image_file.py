"""Inpaint one image file, for ``jobs/inpaint.py`` and ``python -m infill.pipeline.inference``."""

import io
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import tyro

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.images import MaskRule
from infill.pipeline.inference.config import Mode, Precision, TilingConfig
from infill.pipeline.inference.references import load
from infill.pipeline.pretrained import DEFAULT
from infill.pipeline.progress import Progress
from infill.pipeline.registry import RegistryConfig

if TYPE_CHECKING:
    from infill.pipeline.images import PilImage

LARGEST_USUAL_HOLE = 0.6
"""Hole ratio above which the mask may be meant the other way round."""
FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}


@dataclass(frozen=True, kw_only=True)
class InpaintConfig:
    """One image, its mask, and the model."""

    image: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PHOTO")]]
    """The image: a file of any format that is read, by path or s3:// address."""
    mask: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MASK")]]
    """The mask, of the same size; pixels brighter than 127 of 255 are the hole."""
    masks: MaskRule = field(default_factory=MaskRule)
    """Which pixels of the mask are the hole."""
    model: str = DEFAULT
    """The model: ``infill-base``, which comes with the package, ``spn@champion``, ``spn@3``, a
    checkpoint, a run, or a file of its authors."""
    out: str = ""
    """The file to write, .png, .jpg or .webp; empty writes PHOTO-filled.png into the working
    directory."""
    samples: int = 1
    """Number of results to write; more than one needs a probabilistic model."""
    seed: int | None = None
    """Seed of random results; None gives the most likely result."""
    mode: Mode = "auto"
    """How an image larger than the largest tile is processed: "crop" around the holes, "resize"
    it, "refine" (resize, and add detail from tiles), "tile" it, or "subsample" it; "auto"
    chooses."""
    device: str = "cpu"
    """The device: cpu, cuda, cuda:1 ..."""
    precision: Precision = "float32"
    """Data type in which the network computes."""
    tiling: TilingConfig = field(default_factory=TilingConfig)
    """How images of any size are tiled."""
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    """The model registry."""

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        suffix = PurePath(self.out).suffix.lower()
        if self.out and suffix not in FORMATS:
            raise UserError(f"out ends in {' or '.join(FORMATS)}, not {self.out!r}")
        inputs = {storage.absolute(self.image), storage.absolute(self.mask)}
        if inputs & {storage.absolute(out) for out in self.outputs}:
            raise UserError(
                "the result would overwrite the photograph or its mask: give another --out"
            )

    @property
    def outputs(self) -> list[str]:
        """The files to write, one for each sample."""
        out = self.out or f"{PurePath(self.image).stem}-filled.png"
        if self.samples == 1:
            return [out]
        stem, dot, suffix = out.rpartition(".")
        return [f"{stem}-{number}{dot}{suffix}" for number in range(1, self.samples + 1)]


def inpaint_file(config: InpaintConfig) -> None:
    """Inpaint, and print where the result is.

    Raises:
        UserError: if the image, the mask or the model is missing or unusable.
    """
    with Progress(f"loading {config.model}") as progress:
        inpaint = load(
            config.model,
            config.device,
            config.precision,
            registry=config.registry,
            tiling=config.tiling,
        )
        inpaint.mask_rule = config.masks
        progress.ending = "loaded"
    with Progress("inpainting"):
        found = inpaint(config.image, config.mask, config.samples, config.seed, config.mode)
    for image, out in zip(found if config.samples > 1 else [found], config.outputs, strict=True):
        storage.write(out, _encoded(image, out))
        print(f"filled by {inpaint.name}: {storage.absolute(out)}")
    if (hole_ratio := inpaint.hole_ratio(config.mask)) > LARGEST_USUAL_HOLE:
        other = "black" if config.masks.polarity == "white" else "white"
        print(
            f"the mask marks {hole_ratio:.0%} of the image as the hole; if that is the part to "
            f"keep, give --masks.polarity {other}"
        )
    if (scale := inpaint.scale(config.mask, config.mode)) < 1:
        print(
            f"the hole is large: it was predicted at {scale:.2f} of its size and enlarged"
            + ("" if config.mode == "refine" else "; --mode refine adds detail at full size")
        )


def _encoded(image: "PilImage", out: str) -> bytes:
    stream = io.BytesIO()
    kept = {name: image.info[name] for name in ("icc_profile", "exif", "dpi") if name in image.info}
    image.save(stream, FORMATS[PurePath(out).suffix.lower()], **kept)
    return stream.getvalue()
