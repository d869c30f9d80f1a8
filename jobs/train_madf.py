"""Train MADF (IEEE Transactions on Image Processing 2021) on shards of photographs.

python jobs/train_madf.py places2 --data.shards s3://places2 --model.perceptual-weights vgg16.pth
python jobs/train_madf.py smoke

The paper trains 300,000 steps on batches of 24, five days on eight GPUs, and reports a PSNR of
26.11 dB over all irregular masks of Places2 (Table I). `smoke` makes its own shards and ends within
a minute.
If a training is interrupted, run the same command again: it resumes from the newest checkpoint.
"""

from collections.abc import Sequence
from dataclasses import replace

from infill.models.madf.config import MADFConfig
from infill.pipeline.config import run
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.train_cli import fine_tuning, launch, on_two_cores, published, smoke

IRREGULAR = MaskConfig(
    recipe="irregular", min_hole_ratio=0.01, max_hole_ratio=0.6, hole_ratios="uniform"
)
"""In place of the irregular masks of Liu et al., whose ratios are spread evenly up to 0.6."""
PHOTOGRAPHS = BatchConfig(
    batch_size=24, image_size_px=256, resize_short_side_px=286, masks=IRREGULAR
)
"""Windows of photographs resized to a short side of 286 px, mirrored. The released 572 px belong to
windows of 512 px."""

PRESETS = {
    "places2": published(
        "places2",
        MADFConfig(),
        PHOTOGRAPHS,
        steps=300_000,
        save_every_steps=20_000,
        dataset="places2-12k",
    ),
    "places2-512": published(
        # The size of the released weights.
        "places2-512",
        MADFConfig(),
        replace(PHOTOGRAPHS, image_size_px=512, resize_short_side_px=572),
        steps=300_000,
        save_every_steps=20_000,
        dataset="places2-large-12k",
    ),
    "celeba": published(
        "celeba",
        MADFConfig(),
        PHOTOGRAPHS,
        steps=300_000,
        save_every_steps=20_000,
        dataset="celeba-madf",
    ),
    "paris": published(
        "paris", MADFConfig(), PHOTOGRAPHS, steps=300_000, save_every_steps=5000, dataset="paris"
    ),
    "finetune": fine_tuning(MADFConfig(learning_rate=2e-5), PHOTOGRAPHS, steps=30_000),
    "cpu": on_two_cores(
        MADFConfig(
            levels=5,
            channels=16,
            mask_channels=8,
            decoder_channels=24,
            norm_channels=24,
            perceptual_weight=0.0,
            style_weight=0.0,
            variation_weight=0.0,
            learning_rate=1e-3,
        ),
        steps=5000,
    ),
    "smoke": smoke(MADFConfig.tiny(), BatchConfig(batch_size=4, image_size_px=32, masks=IRREGULAR)),
}


TABLES = {"places2": "Table I"}
"""The paper's table that each preset reproduces."""


def main(words: Sequence[str] | None = None) -> None:
    """Train one preset, or resume its run from the newest checkpoint."""
    launch(PRESETS, __doc__ or "", words, TABLES)


if __name__ == "__main__":
    run(main)
