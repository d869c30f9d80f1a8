"""The ``ARCHITECTURE`` of DeepFill v1: its networks, objective, weights and tables."""

from infill.models.architecture import Architecture
from infill.models.deepfill.config import DeepFillConfig
from infill.models.deepfill.layers import Chain
from infill.models.deepfill.networks import Generator
from infill.models.deepfill.objective import DeepFillObjective
from infill.models.deepfill.search_spaces import SPACES, TABLES
from infill.models.deepfill.variants import variants
from infill.models.deepfill.visualize import intermediate_results
from infill.models.deepfill.weights import read_release, write_release

ARCHITECTURE = Architecture(
    name="deepfill",
    paper="Generative Image Inpainting with Contextual Attention, 2018",
    config=DeepFillConfig,
    generator=Generator,
    objective=DeepFillObjective,
    variants=variants,
    read_release=read_release,
    write_release=write_release,
    blocks=(Chain,),
    spaces=SPACES,
    tables=TABLES,
    symbols={
        "hole_coarse": "L_1_discounted_coarse",
        "hole": "L_1_discounted",
        "known_coarse": "L_1_valid_coarse_released",
        "known": "L_1_valid_released",
        "adversarial": "L_G",
        "critic_whole": "L_D_global",
        "critic_window": "L_D_local",
        "penalty_whole": "L_GP_global",
        "penalty_window": "L_GP_local",
    },
    intermediate_results=intermediate_results,
)
