"""The ``ARCHITECTURE`` of DeepFill v2: its networks, objective, weights and tables."""

from infill.models.architecture import Architecture
from infill.models.deepfill.layers import Chain
from infill.models.deepfill.visualize import intermediate_results
from infill.models.deepfill2.config import DeepFill2Config
from infill.models.deepfill2.networks import Generator
from infill.models.deepfill2.objective import DeepFill2Objective
from infill.models.deepfill2.search_spaces import SPACES, TABLES
from infill.models.deepfill2.variants import variants
from infill.models.deepfill2.weights import read_release, write_release

ARCHITECTURE = Architecture(
    name="deepfill2",
    paper="Free-Form Image Inpainting with Gated Convolution, 2019",
    config=DeepFill2Config,
    generator=Generator,
    objective=DeepFill2Objective,
    variants=variants,
    read_release=read_release,
    write_release=write_release,
    blocks=(Chain,),
    spaces=SPACES,
    tables=TABLES,
    symbols={
        "coarse": "L_1_coarse",
        "image": "L_1",
        "adversarial": "L_G",
        "discriminator": "L_D_sn",
    },
    intermediate_results=intermediate_results,
)
