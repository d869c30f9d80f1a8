"""The ``ARCHITECTURE`` of PEN-Net: its networks, objective, weights and tables."""

from infill.models.architecture import Architecture
from infill.models.pennet.attention import AttentionTransfer, PatchSwap
from infill.models.pennet.config import PENNetConfig
from infill.models.pennet.networks import build_generator
from infill.models.pennet.objective import PENNetObjective
from infill.models.pennet.search_spaces import SPACES, TABLES
from infill.models.pennet.variants import variants
from infill.models.pennet.visualize import intermediate_results
from infill.models.pennet.weights import read_release, write_release

ARCHITECTURE = Architecture(
    name="pennet",
    paper="Learning Pyramid-Context Encoder Network for High-Quality Image Inpainting, CVPR 2019",
    config=PENNetConfig,
    generator=build_generator,
    objective=PENNetObjective,
    variants=variants,
    read_release=read_release,
    write_release=write_release,
    blocks=(AttentionTransfer, PatchSwap),
    spaces=SPACES,
    tables=TABLES,
    symbols={
        "pyramid": "L_pd",
        "adversarial": "L_G",
        "discriminator": "L_D",
        "hole": "L_hole_released",
        "known": "L_valid_released",
    },
    intermediate_results=intermediate_results,
)
