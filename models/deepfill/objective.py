"""DeepFill's losses: two discounted L1, two critics, several critic updates per step."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from infill.models.architecture import Batch, Objective, Prepare
from infill.models.deepfill.config import DeepFillConfig
from infill.models.deepfill.networks import Critics, Generator, Prediction, Scores
from infill.models.deepfill.terms import (
    blend,
    box_discount,
    critic_loss,
    generator_loss,
    masked_gradient_penalty,
    mean_over,
    window_corners,
    windows,
)
from infill.models.losses import detached, frozen, weighted_l1
from infill.models.masking import distance_to_known, paste


def alone(network: nn.Module) -> nn.Module:
    """Prepare a network for one device: return it as it is."""
    return network


class DeepFillObjective(Objective):
    """Train DeepFill v1: several updates of both critics, then one of the generator."""

    updates_once: ClassVar[bool] = False

    def __init__(self, config: DeepFillConfig, prepare: Prepare = alone) -> None:
        """Build the generator, the critics and their optimizers.

        Args:
            config: the paper's numbers.
            prepare: wraps each trained network and places it on its device.
        """
        self.config = config
        generator, critics = Generator(config), Critics(config)
        self.networks = {"generator": generator, "discriminator": critics}
        self.prepared_generator = prepare(generator)
        self.prepared_critics = prepare(critics)
        self.build_optimizers(config)
        device = next(generator.parameters()).device
        self.box_discount = box_discount(config.local_size_px, config.discount_rate).to(device)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the critics several times, then the generator (Algorithm 1).

        With ``critic_batches`` "fresh" the batch is cut into critic_updates + 1 equal slices:
        one for each update of the critics and the last for the generator, as released. With
        "shared" every update sees all of it.

        Args:
            batch: this worker's share of the global batch.

        Returns:
            "critic_whole", "critic_window" and, for WGAN-GP, their "penalty_..." (means over the
            updates); "hole_coarse", "hole", "known_coarse", "known" and "adversarial". While only
            the coarse network is trained, without terms of the critics.

        Raises:
            ValueError: if the images have not the configured size, or cannot be cut equally.
        """
        self._require_size(batch)
        *parts, own = self.divide(batch)
        critic_losses: dict[str, Tensor] = {}
        if batch.step >= self.config.coarse_steps:
            critic_losses = self.update_critics(parts)

        prediction: Prediction = self.prepared_generator(own.image, own.mask)
        generator_losses = self.generator_losses(own, prediction)
        self.update("generator", generator_losses)
        return detached({**critic_losses, **generator_losses})

    def divide(self, batch: Batch) -> list[Batch]:
        """Return the batch of each critic update and, last, the generator's."""
        count = self.config.critic_updates + 1
        if self.config.critic_batches == "shared":
            return [batch] * count
        return divided(batch, count)

    def update_critics(self, parts: list[Batch]) -> dict[str, Tensor]:
        """Update both critics once on each part; return each term's mean."""
        rounds = []
        shares: Sequence[Tensor | None] = [None] * len(parts)
        if self.config.gan == "wgan_gp":
            shares = blend_shares(parts)
        for (part, composite), share in zip(self.composites(parts), shares, strict=True):
            losses = self.critic_losses(part, composite, share)
            self.update("discriminator", losses)
            rounds.append(detached(losses))
        return {name: torch.stack([r[name] for r in rounds]).mean() for name in rounds[0]}

    @torch.no_grad()
    def composites(self, parts: list[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Yield each part with its holes filled; a part that comes again is filled only once."""
        filled: Batch | None = None
        for part in parts:
            if part is not filled:
                final = self.generator(part.image, part.mask).final
                composite, filled = paste(final, part.image, part.mask), part
            yield part, composite

    def critic_losses(
        self, batch: Batch, composite: Tensor, shares: Tensor | None
    ) -> dict[str, Tensor]:
        """Tell originals from composites, whole and in the window around the hole (Sec. 3).

        Args:
            batch: the originals and masks.
            composite: [B, 3, H, W], without graph.
            shares: the random shares of the blends of this update, by :func:`blend_shares`; None
                without a penalty.
        """
        config, size = self.config, self.config.local_size_px
        corners = window_corners(batch.mask, size)
        whole = [batch.image, composite]
        window = [windows(image, corners, size) for image in whole]
        if shares is not None:
            whole.append(blend(whole[0], whole[1], shares[0]))
            window.append(blend(window[0], window[1], shares[1]))
        # One pass scores all: there are no statistics over the batch.
        scores: Scores = self.prepared_critics(torch.cat(whole), torch.cat(window))
        scores_whole = scores.whole.chunk(len(whole))
        scores_window = scores.window.chunk(len(window))
        for role, (real, fake, *_) in (("whole", scores_whole), ("window", scores_window)):
            between = (real.detach().mean() + fake.detach().mean()) / 2  # scores have no zero
            self.log_accuracy(role, real, fake, between)
        losses = {
            "critic_whole": critic_loss(config.gan, scores_whole[0], scores_whole[1]),
            "critic_window": critic_loss(config.gan, scores_window[0], scores_window[1]),
        }
        if shares is not None:
            weight = config.penalty_weight
            slopes = torch.autograd.grad(
                scores_whole[2].sum() + scores_window[2].sum(),
                [whole[2], window[2]],
                create_graph=True,
            )
            masks = batch.mask, windows(batch.mask, corners, size)
            losses["penalty_whole"] = weight * masked_gradient_penalty(slopes[0], masks[0])
            losses["penalty_window"] = weight * masked_gradient_penalty(slopes[1], masks[1])
        return losses

    def generator_losses(self, batch: Batch, prediction: Prediction) -> dict[str, Tensor]:
        """Match the original, near the hole's rim above all; please the critics (Sec. 3)."""
        config = self.config
        errors = self.reconstruction_losses(batch, prediction)
        if batch.step < config.coarse_steps:
            # The second stage stays in the graph: DDP waits for a gradient of each parameter.
            return {
                name: loss if name.endswith("coarse") else 0.0 * loss
                for name, loss in errors.items()
            }
        composite = paste(prediction.final, batch.image, batch.mask)
        corners = window_corners(batch.mask, config.local_size_px)
        window = windows(composite, corners, config.local_size_px)
        with frozen(self.networks["discriminator"]) as critics:
            scores: Scores = critics(composite, window)
        fooled = generator_loss(config.gan, scores.whole) + generator_loss(
            config.gan, scores.window
        )
        return {**errors, "adversarial": config.adversarial_weight * fooled}

    def reconstruction_losses(self, batch: Batch, prediction: Prediction) -> dict[str, Tensor]:
        """Return the L1 of both images, discounted in the hole and plain where known."""
        config, known = self.config, 1.0 - batch.mask
        hole = config.hole_weight
        elsewhere = config.known_weight
        coarse, final = prediction.coarse, prediction.final
        return {
            "hole_coarse": hole * config.coarse_factor * self.discounted_l1(batch, coarse),
            "hole": hole * config.refined_factor * self.discounted_l1(batch, final),
            "known_coarse": elsewhere
            * config.coarse_factor
            * mean_over((batch.image - coarse).abs(), known),
            "known": elsewhere
            * config.refined_factor
            * mean_over((batch.image - final).abs(), known),
        }

    def discounted_l1(self, batch: Batch, image: Tensor) -> Tensor:
        """Return the spatially discounted L1 of one image, a scalar (Sec. 3).

        "box": the mean over the window, known rim included, of |error| * gamma^distance from
        the window's border. "distance": the mean over the hole's pixels of |error| *
        gamma^distance to the nearest known pixel.
        """
        size = self.config.local_size_px
        if self.config.discount == "box":
            corners = window_corners(batch.mask, size)
            return weighted_l1(
                windows(image, corners, size),
                windows(batch.image, corners, size),
                self.box_discount,
            )
        distance = distance_to_known(batch.mask, limit=size // 2)
        error = (image - batch.image).abs() * self.config.discount_rate**distance
        return mean_over(error, batch.mask)

    def _require_size(self, batch: Batch) -> None:
        size = self.config.image_size_px
        height, width = batch.image.shape[-2:]
        if (height, width) != (size, size):
            raise ValueError(
                f"the critics were made for images of image_size_px {size}, got {height} x {width}"
            )


def divided(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch into equal slices, in order.

    Where workers hold every so many-th sample of a global batch, the slices of all workers
    together are the slices of the global batch: their number changes nothing.

    Raises:
        ValueError: if the samples cannot be dealt out equally.
    """
    try:
        return batch.cut(count)
    except ValueError as error:
        raise ValueError(
            f"each worker's batch is cut into {count} equal slices, one per update, "
            f"which {len(batch.image)} samples do not allow: choose a multiple of {count}"
        ) from error


def blend_shares(parts: list[Batch]) -> Sequence[Tensor]:
    """Return the random shares of the blends of each update: [2, B], of whole images and windows.

    Those of all updates are copied to the device at once.
    """
    numbers = [
        [fractions(part, f"{view} {turn}") for view in ("whole", "window")]
        for turn, part in enumerate(parts)
    ]
    return torch.tensor(numbers, device=parts[0].image.device).unbind()


def fractions(batch: Batch, purpose: str) -> list[float]:
    """Return one random number in [0, 1] per sample; independent of the worker.

    It is keyed by purpose, step, sample and mask, whose identity names the run's seed; without
    keys by the batch's own seed and the sample's place in it.
    """
    samples = range(batch.image.shape[0])
    names = [f"{purpose}|{batch.step}|{_identity(batch, index)}" for index in samples]
    digests = [hashlib.blake2b(name.encode(), digest_size=6).digest() for name in names]
    return [int.from_bytes(digest, "big") / 2**48 for digest in digests]


def _identity(batch: Batch, index: int) -> str:
    if not batch.keys:
        return f"{batch.seed}|{index}"
    return f"{batch.keys[index]}|{batch.mask_ids[index] if batch.mask_ids else ''}"
