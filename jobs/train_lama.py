"""Train LaMa (WACV 2022) on shards of photographs.

python jobs/train_lama.py places2 --data.shards s3://places2 --model.perceptual-weights ade20k.pth
python jobs/train_lama.py smoke

The paper trains a million steps on batches of 30 and reports, for its network of 27 million
parameters, an FID of 0.63 on Places2 under narrow masks (Table 1; from memory, not checked against
the print). `smoke` makes its own shards and ends within a minute.
If a training is interrupted, run the same command again: it resumes from the newest checkpoint.
"""

from collections.abc import Sequence
from dataclasses import replace

from infill.models.lama.config import LaMaConfig
from infill.pipeline.config import run
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.train_cli import fine_tuning, launch, on_two_cores, published, smoke

WIDE = MaskConfig(recipe="mixed", mixture=(("wide_strokes", 1.0), ("boxes", 1.0)))
"""The released wide masks: wide strokes or boxes, equally often; 36 % of the frame on average."""
PHOTOGRAPHS = BatchConfig(batch_size=30, image_size_px=256, enlarge_small_images=True, masks=WIDE)
"""Windows of 256 px, mirrored."""

PRESETS = {
    # The released code clips the gradients of both networks at a norm of 1.
    "places2": replace(
        published(
            "places2",
            LaMaConfig(num_blocks=9),
            PHOTOGRAPHS,
            steps=1_000_000,
            dataset="places2-large",
        ),
        max_gradient_norm=1.0,
    ),
    "big": replace(
        published("big", LaMaConfig(), PHOTOGRAPHS, steps=1_000_000, dataset="places2-large"),
        max_gradient_norm=1.0,
    ),
    "finetune": replace(
        fine_tuning(
            LaMaConfig(learning_rate=1e-4, discriminator_learning_rate=1e-5),
            PHOTOGRAPHS,
            steps=50_000,
        ),
        max_gradient_norm=1.0,
    ),
    "cpu": on_two_cores(
        LaMaConfig(
            channels=16,
            num_blocks=6,
            discriminator_channels=8,
            generates_again=False,
            hole_weight=60.0,
            adversarial_weight=0.01,
            matching_weight=0.1,
            perceptual_weight=0.0,
        ),
        steps=6000,
    ),
    "smoke": smoke(LaMaConfig.tiny(), BatchConfig(batch_size=4, image_size_px=32, masks=WIDE)),
}


TABLES = {"places2": "the row LaMa-Fourier of Table 1"}
"""The paper's table that each preset reproduces."""


def main(words: Sequence[str] | None = None) -> None:
    """Train one preset, or resume its run from the newest checkpoint."""
    launch(PRESETS, __doc__ or "", words, TABLES)


if __name__ == "__main__":
    run(main)
