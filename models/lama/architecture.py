"""The ``ARCHITECTURE`` of LaMa: its networks, objective, weights and tables."""

from infill.models.architecture import Architecture
from infill.models.lama.config import LaMaConfig
from infill.models.lama.networks import Doubling, Generator, Halving, ResidualBlock
from infill.models.lama.objective import LaMaObjective
from infill.models.lama.search_spaces import SPACES, TABLES
from infill.models.lama.variants import variants
from infill.models.lama.visualize import intermediate_results
from infill.models.lama.weights import read_release, write_release

ARCHITECTURE = Architecture(
    name="lama",
    paper="Resolution-robust Large Mask Inpainting with Fourier Convolutions, 2022",
    config=LaMaConfig,
    generator=Generator,
    objective=LaMaObjective,
    variants=variants,
    read_release=read_release,
    write_release=write_release,
    blocks=(ResidualBlock, Halving, Doubling),
    spaces=SPACES,
    tables=TABLES,
    symbols={
        "known": "L_1_known_released",
        "hole": "L_1_hole_released",
        "adversarial": "L_Adv_generator",
        "matching": "L_DiscPL",
        "perceptual": "L_HRFPL",
        "discriminator": "L_Adv_discriminator",
        "penalty": "R_1",
    },
    intermediate_results=intermediate_results,
)
