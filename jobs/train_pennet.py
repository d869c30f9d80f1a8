"""Train PEN-Net, the pyramid-context encoder (CVPR 2019), on shards of photographs.

python jobs/train_pennet.py places2 --data.shards s3://photos/places2 --storage s3://runs/pennet
python jobs/train_pennet.py smoke

The paper reports an FID of 15.19 and an MS-SSIM of 78.09 % on Places2 with random squares of half
the side (Table 3), by a program that was never released; no training time is printed anywhere.
`smoke` makes its own shards and ends within a minute.
If a training is interrupted, run the same command again: it resumes from the newest checkpoint.
"""

from collections.abc import Sequence

from infill.models.pennet.config import PENNetConfig
from infill.pipeline.config import run
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.train_cli import fine_tuning, launch, on_two_cores, published, smoke

BLOCKS = MaskConfig(recipe="blocks")
"""Squares of half the side, anywhere, tilted and dilated by 1 px as in the released code: 16 % of
the frame on average. The paper tests with squares as they are."""
PHOTOGRAPHS = BatchConfig(
    batch_size=16, image_size_px=256, crop="squash", colour_jitter=0.05, masks=BLOCKS
)
"""As the authors preprocess all four sets: squashed to a square, mirrored, slightly recoloured."""

PRESETS = {
    "celebahq": published(
        "celebahq", PENNetConfig(), PHOTOGRAPHS, steps=330_000, dataset="celeba-hq"
    ),
    "places2": published(
        "places2",
        PENNetConfig(learning_rate_drop_steps=(100_000,)),
        PHOTOGRAPHS,
        steps=1_000_000,
        dataset="places2",
    ),
    "dtd": published(
        "dtd",
        PENNetConfig(adversarial="nsgan", learning_rate_drop_steps=(100_000, 200_000, 300_000)),
        PHOTOGRAPHS,
        steps=330_000,
        dataset="dtd-pennet",
    ),
    "facade": published(
        "facade", PENNetConfig(adversarial="nsgan"), PHOTOGRAPHS, steps=200_000, dataset="facade"
    ),
    "finetune": fine_tuning(PENNetConfig(learning_rate=1e-5), PHOTOGRAPHS, steps=30_000),
    "cpu": on_two_cores(
        PENNetConfig(
            channels=16,
            discriminator_channels=8,
            adversarial_weight=0.001,
            learning_rate=5e-4,
            learning_rate_drop_steps=(8000,),
        ),
        steps=10_000,
    ),
    "smoke": smoke(PENNetConfig.tiny(), BatchConfig(batch_size=4, image_size_px=64, masks=BLOCKS)),
}


TABLES = {"places2": "Table 3"}
"""The paper's table that each preset reproduces."""


def main(words: Sequence[str] | None = None) -> None:
    """Train one preset, or resume its run from the newest checkpoint."""
    launch(PRESETS, __doc__ or "", words, TABLES)


if __name__ == "__main__":
    run(main)
