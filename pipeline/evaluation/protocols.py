"""Evaluation protocols: the masks, sizes and metrics behind each table of the papers.

A protocol fixes what a comparison with a paper needs, and says in ``differs`` what we cannot or
do not repeat, so that nobody takes two numbers for comparable that are not.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from infill.models.config import Subsampling
from infill.pipeline.errors import UserError
from infill.pipeline.masks import HOLE_RATIO_BUCKETS, MaskConfig

Crop = Literal["centre", "centre_square", "squash", "original"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """A column of the table: the pairs whose masks one configuration draws."""

    name: str
    """As tables show it: "0.1-0.2" means hole ratios above 0.1, up to 0.2."""
    masks: MaskConfig
    in_all: bool = True
    """Whether its pairs count in the column "all"."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One paper's way of measuring on one data set."""

    name: str
    paper: str
    about: str
    """What the paper did."""
    differs: str
    """Where this evaluation is not that."""
    groups: tuple[Group, ...]
    metrics: tuple[str, ...]
    """Of the paper's table, in its order; those of a whole set of images as well."""
    image_size_px: int | None = 256
    crop: Crop = "squash"
    samples: int = 1
    """Pictures drawn per pair, of which the one with the highest PSNR counts."""
    subsampling: Subsampling = field(default_factory=Subsampling)
    """How the network sees large frames."""


def ratio_groups(masks: MaskConfig, buckets: tuple[tuple[float, float], ...]) -> tuple[Group, ...]:
    """Return a group for each range of hole ratio, named after it."""
    ranges = [replace(masks, min_hole_ratio=low, max_hole_ratio=high) for low, high in buckets]
    return tuple(Group(name=range_name(one), masks=one) for one in ranges)


def range_name(masks: MaskConfig) -> str:
    """Return the range of hole ratios as tables show it."""
    return f"{masks.min_hole_ratio:g}-{masks.max_hole_ratio:g}"


IRREGULAR = MaskConfig(recipe="irregular", hole_ratios="uniform")
DRAWN_MASKS = (
    "Unless --masks.folder names the irregular mask set of Liu et al., masks are drawn by a "
    "recipe in its manner; every image meets one mask of each range, where the paper assigned "
    "masks to images at random."
)

_MADF_PLACES2 = Protocol(
    name="madf-places2",
    paper="Zhu et al., Image Inpainting by End-to-End Cascaded Refinement with Mask Awareness",
    about="12,000 Places2 photographs at 256 x 256 with 12,000 irregular masks in six ranges of "
    "hole ratio, and the centre square of side 128. PSNR, SSIM and FID of composites.",
    differs=DRAWN_MASKS,
    groups=(
        *ratio_groups(IRREGULAR, HOLE_RATIO_BUCKETS),
        Group(name="regular", masks=MaskConfig(recipe="centre"), in_all=False),
    ),
    metrics=("psnr", "ssim", "fid"),
)


def _spn(name: str, data: str, crop: Crop) -> Protocol:
    return Protocol(
        name=f"spn-{name}",
        paper="Zhang et al., Semantic Prior Network for image inpainting (SPN)",
        about=f"{data} with fixed pairs of images and irregular masks. SSIM with a uniform window "
        "of 11, PSNR, the mean absolute error of the channels' mean, and FID.",
        differs=DRAWN_MASKS,
        groups=ratio_groups(IRREGULAR, ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6))),
        metrics=("uniform_ssim_11", "psnr", "grey_l1", "fid"),
        crop=crop,
    )


_SPN_PROBABILISTIC = replace(
    _spn("prob", "CelebA-HQ (2,800 images) or Paris StreetView (100)", "squash"),
    samples=5,
    about="CelebA-HQ (2,800 images) or Paris StreetView (100) with fixed pairs of images and "
    "irregular masks. Of five pictures per pair the one with the highest PSNR counts, with its "
    "SSIM, its MAE and in FID.",
)

_PENNET_PLACES2 = Protocol(
    name="pennet-places2",
    paper="Zeng et al., Learning Pyramid-Context Encoder Network (PEN-Net)",
    about="Places2 with squares of side 128 at random places. L1, MS-SSIM, inception score by a "
    "Places365 classifier, FID.",
    differs="Every image meets one random and one centre square; only the random one counts in "
    '"all". The paper states neither its unit of L1 (ours is percent of the range) nor how many '
    "images FID and IS are over.",
    groups=(
        Group(name="random", masks=MaskConfig(recipe="square", max_shrink=0.0)),
        Group(name="centre", masks=MaskConfig(recipe="centre"), in_all=False),
    ),
    metrics=("l1", "ms_ssim", "places_score", "fid"),
)

_DEEPFILL_PLACES2 = Protocol(
    name="deepfill-places2",
    paper="Yu et al., Generative Image Inpainting with Contextual Attention (DeepFill v1)",
    about="Places2 validation crops of 256 x 256 with rectangles of side 96 to 128. Relative L1, "
    "relative L2, PSNR and total variation.",
    differs="The crop is the centre one. The normaliser of the paper's L2 cannot be recovered: "
    "ours is the mean squared error in percent.",
    groups=(Group(name="96-128 px", masks=MaskConfig(recipe="square")),),
    metrics=("relative_l1", "l2", "psnr", "total_variation"),
    crop="centre",
)

_THREE_TYPES = MaskConfig(
    recipe="mixed", mixture=(("box", 1.0), ("automaton", 1.0), ("long_strokes", 1.0))
)


DEEPGIN_L1 = "The paper does not define its L1; its size suggests the hole's, so both are given."


def _deepgin(name: str, data: str) -> Protocol:
    return Protocol(
        name=f"deepgin-{name}",
        paper="Li et al., DeepGIN: Deep Generative Inpainting Network",
        about=f"{data} at 256 x 256, with random rectangles and with three types of masks "
        "(rectangles, strokes, cellular automata). PSNR, SSIM, L1 in percent, FID and LPIPS.",
        differs=DEEPGIN_L1,
        groups=(
            Group(name="rectangles", masks=MaskConfig(recipe="box")),
            Group(name="three types", masks=_THREE_TYPES),
        ),
        metrics=("psnr", "ssim", "hole_l1", "l1", "fid", "lpips"),
    )


def _deepgin_original(name: str, data: str) -> Protocol:
    return replace(
        _deepgin(name, data),
        name=f"deepgin-{name}-original",
        about=f"{data} at their original size, with random rectangles and with three types of "
        "masks. What is larger than 256 x 256 is completed in interleaved pieces of that size. "
        "PSNR, SSIM, L1 in percent, FID and LPIPS.",
        differs=f"{DEEPGIN_L1} Neither the average over five turned copies nor the low-pass of "
        "the authors' code is applied, as the paper mentions neither; --subsampling.side-px 256 "
        "with --subsampling.average and --subsampling.low-pass applies them. Strokes keep their "
        "width in pixels, so that they hide less of a larger image.",
        image_size_px=None,
        crop="original",
        subsampling=Subsampling(side_px=256),
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _MADF_PLACES2,
        _spn("places2", "The first 12,000 validation photographs of Places2", "squash"),
        _spn("celeba", "12,000 test photographs of CelebA", "centre_square"),
        _spn("paris", "The 100 test photographs of Paris StreetView", "squash"),
        _SPN_PROBABILISTIC,
        _PENNET_PLACES2,
        _deepgin("ffhq", "1,000 photographs of FFHQ"),
        _deepgin("oxford", "523 photographs of Oxford Buildings"),
        _deepgin("celebahq", "3,000 photographs of CelebA-HQ"),
        _deepgin_original("ffhq", "1,000 photographs of FFHQ"),
        _deepgin_original("oxford", "523 photographs of Oxford Buildings"),
        _DEEPFILL_PLACES2,
    )
}
"""Every protocol by the name that ``--protocol`` takes."""


def load_protocol(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        UserError: if there is none of that name; the message lists those there are.
    """
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; there are: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def with_mask_files(group: Group, folder: str, white_is_hole: bool) -> Group:
    """Return a group whose irregular masks come from files rather than from the recipe."""
    if group.masks.recipe != "irregular":
        return group
    return replace(
        group,
        masks=replace(group.masks, recipe="files", folder=folder, white_is_hole=white_is_hole),
    )
