"""SPN: image inpainting with a learned semantic pyramid.

Zhang, Wang, Ni and Yang, "Fully Context-Aware Image Inpainting with a Learned Semantic Pyramid",
Pattern Recognition 2023. A prior learner looks at the masked image and predicts what a
multi-label classifier would have seen in the complete one, at three scales; a generator fills
the hole under the guidance of that pyramid, through SPADE.

We follow the authors' released code wherever it differs from the paper's text, because only it
gives the published parameter counts: dense blocks in the prior learner, region normalisation in
the image encoder, SPADE with 1 + gain, hole_emphasis 2 where the paper says 4. Loss forms that
differ have a field each (``hole_emphasis``, ``perceptual_layer_weights``, ``diversity_form``,
``latent_form``). Two rows of the ablations are defined by no release, so their layers are ours:
``prior_levels=2`` rises the last level as SPL does, ``fusion="concat"`` concatenates every prior
once and normalises without modulation.

Where we differ from the code, and why:

- Images are in [-1, 1] outside; networks and losses work in [0, 1] inside, as the authors'.
- The discriminator gives logits, and the cross-entropy takes them: a sigmoid before it is refused
  under autocast and loses precision.
- Originals and predictions pass the discriminator together, so that its spectral norms take one
  power iteration there instead of two.
- The teacher sees the image doubled bilinearly instead of a second, larger copy of the original.
- A latent's deviation is at least 0.001, so that its divergence stays finite; and the generator
  draws the latent's mean unless it is given noise, so that serving repeats itself.
- A layer of VGG-19 in which the hole has vanished is left out of the diversity loss, where the
  code divides by zero. That loss inverts a sum over this worker's share of the batch, as the
  code does, so it is the one term that depends on the number of workers.
- From ``prior_stop_step`` on the teacher is not asked any more; the heads get gradients of zero.
- Schedules count steps, not epochs.
"""

from infill.models.architecture import Architecture, Prepare
from infill.models.spn.blocks import DenseBlock, ResidualBlock, SpadeResidualBlock, SpadeRisingBlock
from infill.models.spn.config import SPNConfig
from infill.models.spn.networks import Generator, PlainRise, deterministic_generator
from infill.models.spn.objective import SPNObjective
from infill.models.spn.prior import Rise
from infill.models.spn.probabilistic import ProbabilisticGenerator
from infill.models.spn.probabilistic_objective import ProbabilisticObjective
from infill.models.spn.search_spaces import SPACES, TABLES
from infill.models.spn.variants import variants
from infill.models.spn.visualize import pictures
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
    pictures=pictures,
)
