"""The probabilistic SPN: a Gaussian latent in the prior learner (Sec. 3.1.2).

Each sample of the latent gives another pyramid, hence another output. Layers that do not depend on
it are computed once, for two samples in training as for many in sampling.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import SpectralConv2d, at_least_float32, normalise_each
from infill.models.masking import whitened
from infill.models.spn.blocks import MergingBlock
from infill.models.spn.config import SPNConfig
from infill.models.spn.networks import Generator, Prediction, check_size, finish
from infill.models.spn.prior import PriorLearner

SMALLEST_DEVIATION = 1e-3
"""Below this softplus may underflow to 0, and the divergence grows without bound."""


class LatentEncoder(nn.Module):
    """Estimate mean and deviation of the latent at an eighth of the features' size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4 * channels, 8 * channels, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8 * channels, 8 * channels, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(8 * channels, 8 * channels, 4, stride=2, padding=1)
        self.mean = nn.Conv2d(8 * channels, 2 * channels, 1)
        self.deviation = nn.Conv2d(8 * channels, 2 * channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Turn [B, 4C, H/4, W/4] into mean and deviation, [B, 2C, H/32, W/32] each."""
        for conv in (self.conv1, self.conv2, self.conv3):
            features = functional.leaky_relu(conv(features), 0.2, inplace=True)
        deviation = functional.softplus(at_least_float32(self.deviation(features)))
        # The value is bounded, the gradient is not: a collapsed deviation can recover.
        bounded = deviation + (deviation.clamp(min=SMALLEST_DEVIATION) - deviation).detach()
        return at_least_float32(self.mean(features)), bounded


class LatentDecoder(nn.Module):
    """Turn a latent into features, by three pixel shuffles."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, 16 * channels, 3, padding=1)
        self.conv2 = nn.Conv2d(4 * channels, 16 * channels, 3, padding=1)
        self.conv3 = nn.Conv2d(4 * channels, 16 * channels, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """Turn [B, 2C, H/32, W/32] into [B, 4C, H/4, W/4]."""
        features = latent
        for conv in (self.conv1, self.conv2, self.conv3):
            features = functional.relu(functional.pixel_shuffle(conv(features), 2))
        return features


class VariationalPriorLearner(PriorLearner):
    """A prior learner that predicts one pyramid per sample of its latent (Eq. 5)."""

    def __init__(self, config: SPNConfig) -> None:
        super().__init__(config)
        width = 4 * config.channels
        self.latent_encoder = LatentEncoder(config.channels)
        self.latent_decoder = LatentDecoder(config.channels)
        # The first residual block takes the features and the decoded latent side by side.
        self.blocks[0] = MergingBlock(2 * width, width)

    def imagine(
        self, masked_image: Tensor, mask: Tensor, noise: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Predict one prior pyramid per sample.

        Args:
            masked_image: [B, 3, H, W] in [0, 1], 1 inside the hole.
            mask: [B, 1, H, W], 1 in the hole.
            noise: [R, B, 2C, H/32, W/32], normally distributed; None uses the mean, once.

        Returns:
            The pyramid, coarsest first, of R * B maps, all images of the first sample before all of
            the second; mean and deviation, [B, 2C, H/32, W/32] each.
        """
        encoded, *skips = self.encoder(masked_image, mask)
        features = self.trunk(encoded)
        mean, deviation = self.latent_encoder(features)
        latent = mean if noise is None else (mean + deviation * noise).flatten(0, 1)
        samples = 1 if noise is None else noise.shape[0]
        decoded = self.latent_decoder(latent)
        prior = torch.cat([repeated(features, samples), decoded.to(features.dtype)], dim=1)
        for block in self.blocks:
            prior = block(prior)
        return self.rise(prior, [repeated(skip, samples) for skip in skips]), mean, deviation


def repeated(features: Tensor, samples: int) -> Tensor:
    """Repeat a batch as a whole: [B, ...] to [samples * B, ...]."""
    return features if samples == 1 else features.repeat(samples, 1, 1, 1)


class ProbabilisticGenerator(Generator):
    """Fill a hole in as many ways as noise is given."""

    prior_learner: VariationalPriorLearner

    def __init__(self, config: SPNConfig) -> None:
        super().__init__(config, VariationalPriorLearner(config))
        self.latent_channels = 2 * config.channels

    def forward(self, image: Tensor, mask: Tensor, noise: Tensor | None = None) -> Prediction:
        """Predict the whole image, once for each sample.

        Args:
            image: [B, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
            mask: [B, 1, H, W], 1 in the hole.
            noise: [R, B, 2C, H/32, W/32], from :meth:`sample_noise`; without it, the result is
                that of the latent's mean.

        Returns:
            ``final``, [R * B, 3, H, W] in [-1, 1], all images of the first sample before all of the
            second; ``latent``, its mean and deviation; in training also ``prior``.

        Raises:
            ValueError: if H or W is not a multiple of 32.
        """
        check_size(image, self.size_multiple)
        masked_image = whitened(image, mask)
        pyramid, mean, deviation = self.prior_learner.imagine(masked_image, mask, noise)
        features = self.image_encoder(masked_image, mask.bool())
        features = repeated(features, 1 if noise is None else noise.shape[0])
        final = finish(self.out, self.decoder(features, pyramid))
        prior = self.imitate(pyramid) if self.training else ()
        return Prediction(final, prior, (mean, deviation))

    def prior_pyramid(
        self, image: Tensor, mask: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the prior pyramid of each sample, coarsest level first; arguments as above.

        Without noise it is that of the latent's mean.
        """
        check_size(image, self.size_multiple)
        return self.prior_learner.imagine(whitened(image, mask), mask, noise)[0]

    def sample_noise(self, image: Tensor, samples: int, seed: int) -> Tensor:
        """Return the noise of several samples for each image: [samples, B, 2C, H/32, W/32].

        It is sampled on the CPU with its own seed, so that it is the same on every device.
        """
        batch, _, height, width = image.shape
        size = (samples, batch, self.latent_channels, height // 32, width // 32)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(size, generator=generator, device="cpu")
        return noise.to(image.device)


class DiscriminatorOutput(NamedTuple):
    """The logits and features of the probabilistic variant's discriminator."""

    logits: Tensor
    """[B, 1, H/8 - 2, W/8 - 2]."""
    features: tuple[Tensor, ...]
    """The maps after its second, third and fourth convolution."""


class MatchingDiscriminator(nn.Module):
    """A patch discriminator whose features are matched; normalised per image inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 4, stride=2, padding=1)
        widths = [channels, 2 * channels, 4 * channels, 8 * channels]
        self.convs = nn.ModuleList(
            SpectralConv2d(wide, narrow, 4, stride=stride, padding=1, bias=False)
            for wide, narrow, stride in zip(widths[:-1], widths[1:], [2, 2, 1], strict=True)
        )
        self.last = nn.Conv2d(8 * channels, 1, 4, padding=1)

    def forward(self, image: Tensor) -> DiscriminatorOutput:
        """Score patches of [B, 3, H, W] in [-1, 1]."""
        features = functional.leaky_relu(self.first((image + 1.0) / 2.0), 0.2)
        seen = []
        for conv in self.convs:
            features = functional.leaky_relu(normalise_each(conv(features)), 0.2)
            seen.append(features)
        return DiscriminatorOutput(self.last(features), tuple(seen))
