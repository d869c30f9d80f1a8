"""The ``ARCHITECTURE`` of SPN: its networks, objective, weights and tables."""

from infill.models.architecture import Architecture, Prepare
from infill.models.spn.blocks import DenseBlock, ResidualBlock, SpadeResidualBlock, SpadeRisingBlock
from infill.models.spn.config import SPNConfig
from infill.models.spn.networks import Generator, PlainRise, deterministic_generator
from infill.models.spn.objective import SPNObjective
from infill.models.spn.prior import Rise
from infill.models.spn.probabilistic import ProbabilisticGenerator
from infill.models.spn.probabilistic_objective import ProbabilisticObjective
from infill.models.spn.search_spaces import SPACES, TABLES
from infill.models.spn.variants import OTHERS, variants
from infill.models.spn.visualize import intermediate_results
from infill.models.spn.weights import read_release, write_release


def build_generator(config: SPNConfig) -> Generator:
    """Return the generator of the configuration's variant."""
    if config.variant == "probabilistic":
        return ProbabilisticGenerator(config)
    return deterministic_generator(config)


def build_objective(config: SPNConfig, prepare: Prepare) -> SPNObjective:
    """Return the objective of the configuration's variant."""
    if config.variant == "probabilistic":
        return ProbabilisticObjective(config, prepare)
    return SPNObjective(config, prepare)


ARCHITECTURE = Architecture(
    name="spn",
    paper="Fully Context-Aware Image Inpainting with a Learned Semantic Pyramid, 2023",
    config=SPNConfig,
    generator=build_generator,
    objective=build_objective,
    variants=variants,
    others=OTHERS,
    read_release=read_release,
    write_release=write_release,
    blocks=(DenseBlock, ResidualBlock, SpadeResidualBlock, SpadeRisingBlock, Rise, PlainRise),
    spaces=SPACES,
    tables=TABLES,
    symbols={
        "prior": "L_prior",
        "image": "L_img",
        "adversarial": "L_adv",
        "feature_matching": "L_FM",
        "perceptual": "L_vgg",
        "diversity": "L_div",
        "latent": "L_KL",
        "discriminator": "L_D",
    },
    intermediate_results=intermediate_results,
)
