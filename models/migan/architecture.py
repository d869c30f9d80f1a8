"""The ``ARCHITECTURE`` of MI-GAN: its networks, objective, weights and search spaces."""

from infill.models.architecture import Architecture
from infill.models.migan.config import MIGANConfig
from infill.models.migan.networks import DecoderBlock, EncoderBlock, Generator
from infill.models.migan.objective import MIGANObjective
from infill.models.migan.search_spaces import SPACES, TABLES
from infill.models.migan.variants import variants
from infill.models.migan.visualize import intermediate_results
from infill.models.migan.weights import for_serving, read_release, write_release

ARCHITECTURE = Architecture(
    name="migan",
    paper="MI-GAN: A Simple Baseline for Image Inpainting on Mobile Devices, 2023",
    config=MIGANConfig,
    generator=Generator,
    objective=MIGANObjective,
    variants=variants,
    read_release=read_release,
    write_release=write_release,
    blocks=(EncoderBlock, DecoderBlock),
    spaces=SPACES,
    tables=TABLES,
    symbols={
        "distillation": "L_KD",
        "image": "L_1",
        "adversarial": "L_adv^G",
        "discriminator": "L_adv^D",
        "penalty": "R_1",
    },
    intermediate_results=intermediate_results,
    for_serving=for_serving,
)
