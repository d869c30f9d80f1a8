"""SPN's images: its priors in eight groups (Fig. 10), and samples with their priors (Fig. 11)."""

import torch
from torch import Tensor

from infill.models.spn.networks import Generator
from infill.models.spn.probabilistic import ProbabilisticGenerator
from infill.models.visualize import clustered, labelled

NUM_SAMPLES = 4
"""Pictures of the probabilistic variant, beside that of the latent's mean."""


@torch.no_grad()
def intermediate_results(generator: Generator, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the groups of every level's prior, coarsest first, the samples and the output.

    Before each sample of the probabilistic variant stands the finest prior that it was made from.

    Places of one colour have priors alike, by k-means with K = 8; colours mean nothing else.

    Args:
        generator: in evaluation mode.
        image: [1, 3, H, W] in [-1, 1].
        mask: [1, 1, H, W], 1 in the hole.
    """
    shown = {}
    for prior in generator.prior_pyramid(image, mask):
        shown[f"prior, {prior.shape[-2]} px"] = labelled(clustered(prior[0]))
    if isinstance(generator, ProbabilisticGenerator):
        noise = generator.sample_noise(image, NUM_SAMPLES, seed=0)
        predicted = generator(image, mask, noise).final.float()
        finest = generator.prior_pyramid(image, mask, noise)[-1]
        for index in range(NUM_SAMPLES):
            shown[f"prior of sample {index + 1}"] = labelled(clustered(finest[index]))
            shown[f"sample {index + 1}"] = predicted[index : index + 1]
    return shown | {"final": generator(image, mask).final.float()}
