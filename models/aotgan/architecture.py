"""The ``ARCHITECTURE`` of AOT-GAN: its networks, objective, weights and search spaces."""

from infill.models.aotgan.config import AOTGANConfig
from infill.models.aotgan.networks import AOTBlock, Doubling, Generator
from infill.models.aotgan.objective import AOTGANObjective
from infill.models.aotgan.search_spaces import SPACES, TABLES
from infill.models.aotgan.variants import variants
from infill.models.aotgan.visualize import intermediate_results
from infill.models.aotgan.weights import read_release, write_release
from infill.models.architecture import Architecture

ARCHITECTURE = Architecture(
    name="aotgan",
    paper="Aggregated Contextual Transformations for High-Resolution Image Inpainting, 2022",
    config=AOTGANConfig,
    generator=Generator,
    objective=AOTGANObjective,
    variants=variants,
    read_release=read_release,
    write_release=write_release,
    blocks=(AOTBlock, Doubling),
    spaces=SPACES,
    tables=TABLES,
    symbols={
        "image": "L_rec",
        "style": "L_sty",
        "perceptual": "L_per",
        "adversarial": "L_adv^G",
        "discriminator": "L_adv^D",
    },
    intermediate_results=intermediate_results,
    static_graph=True,
)
