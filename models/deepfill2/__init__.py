"""DeepFill v2: free-form image inpainting with gated convolution, the baseline of two papers.

Yu, Lin, Yang, Shen, Lu and Huang, "Free-Form Image Inpainting with Gated Convolution", ICCV 2019.
The two stages and the attention of version 1, whose tables and attention we share; every
convolution is gated, and one patch discriminator with spectral normalisation, which sees the
mask, takes the place of the two critics.

We follow the authors' released code, version 2.0.0: both halves of the hinge loss weigh 0.5
(discriminator_weight), and the second stage is given the composite alone.

Where we differ from the code, and why:

- A step halves its batch between discriminator and generator, so "batch" here is twice theirs.
- Each image may have its own mask.
- Images are red-green-blue; imported weights are turned from blue-green-red.
- The gradient stops at the vectors of the power iteration, as in PyTorch's own normalisation.
- The variant guided by edges is left out, as no sample here carries any.
"""

from infill.models.architecture import Architecture
from infill.models.deepfill.layers import Chain
from infill.models.deepfill.visualize import pictures
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
    pictures=pictures,
)
