"""The ``ARCHITECTURE`` of MADF: its networks, objective, weights and tables."""

from infill.models.architecture import Architecture
from infill.models.madf.config import MADFConfig
from infill.models.madf.filtering import DynamicConv2d
from infill.models.madf.networks import RecoveryBlock, RefinementBlock
from infill.models.madf.objective import MADFObjective, build_generator
from infill.models.madf.partial import PartialBlock
from infill.models.madf.search_spaces import SPACES, TABLES
from infill.models.madf.variants import OTHERS, variants
from infill.models.madf.visualize import intermediate_results
from infill.models.madf.weights import read_release, write_release

ARCHITECTURE = Architecture(
    name="madf",
    paper="Image Inpainting by End-to-End Cascaded Refinement with Mask Awareness, 2021",
    config=MADFConfig,
    generator=build_generator,
    objective=MADFObjective,
    variants=variants,
    others=OTHERS,
    read_release=read_release,
    write_release=write_release,
    blocks=(RecoveryBlock, RefinementBlock, PartialBlock, DynamicConv2d),
    spaces=SPACES,
    tables=TABLES,
    symbols={
        "known": "L_valid",
        "hole": "L_hole",
        "perceptual": "L_perc",
        "style": "L_style",
        "variation": "L_tv",
    },
    intermediate_results=intermediate_results,
    static_graph=True,
)
