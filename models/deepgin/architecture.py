"""The ``ARCHITECTURE`` of DeepGIN: its networks, objective, weights and tables."""

from infill.models.architecture import Architecture
from infill.models.deepgin.blocks import ResidualBlock, SelfAttention
from infill.models.deepgin.config import DeepGINConfig
from infill.models.deepgin.networks import CoarseNetwork, Generator
from infill.models.deepgin.objective import DeepGINObjective
from infill.models.deepgin.search_spaces import SPACES, TABLES
from infill.models.deepgin.variants import variants
from infill.models.deepgin.visualize import intermediate_results
from infill.models.deepgin.weights import read_release, write_release

ARCHITECTURE = Architecture(
    name="deepgin",
    paper="DeepGIN: Deep Generative Inpainting Network for Extreme Image Inpainting, 2020",
    config=DeepGINConfig,
    generator=Generator,
    objective=DeepGINObjective,
    variants=variants,
    read_release=read_release,
    write_release=write_release,
    blocks=(CoarseNetwork, ResidualBlock, SelfAttention),
    spaces=SPACES,
    tables=TABLES,
    symbols={
        "coarse": "L_L1_coarse",
        "output": "L_L1_out",
        "small": "L_L1_lr",
        "adversarial": "L_adv_G",
        "discriminator": "L_adv_D",
        "perceptual": "L_perceptual",
        "style": "L_style",
        "variation": "L_tv",
    },
    intermediate_results=intermediate_results,
)
