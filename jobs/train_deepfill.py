"""Train DeepFill v1, with contextual attention (CVPR 2018), on shards of photographs.

python jobs/train_deepfill.py places2 --data.shards s3://photos/places2 --storage s3://runs/deepfill
python jobs/train_deepfill.py smoke

The paper trains for 120 GPU hours and reports a PSNR of 18.91 dB on Places2 (Table 1; the figure
is from memory and not checked against the print). The author's program makes 130,000 to 170,000
steps in that time. A step takes six batches of 16: five for the critics, one for the generator.
`smoke` makes its own shards and ends within a minute.
If a training is interrupted, run the same command again: it resumes from the newest checkpoint.
"""

from collections.abc import Sequence
from dataclasses import replace

from infill.models.deepfill.config import DeepFillConfig
from infill.pipeline.config import run
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.train_cli import fine_tuning, launch, on_two_cores, published, smoke

SQUARES = MaskConfig(recipe="square")
"""A square of half the side, anywhere, each side of it up to a sixteenth of the frame's shorter."""
WINDOWS = BatchConfig(
    batch_size=96,
    image_size_px=256,
    enlarge_small_images=True,
    horizontal_flip=False,
    masks=SQUARES,
)
"""Windows at the photographs' own scale, neither mirrored nor recoloured."""

PRESETS = {
    "places2": published("places2", DeepFillConfig(), WINDOWS, steps=170_000, dataset="places2"),
    "imagenet": published("imagenet", DeepFillConfig(), WINDOWS, steps=170_000, dataset="imagenet"),
    "celebahq": published(
        "celebahq",
        DeepFillConfig(),
        replace(WINDOWS, crop="squash"),
        steps=170_000,
        dataset="celeba-hq",
    ),
    "celeba": published(
        "celeba",
        DeepFillConfig(),
        replace(WINDOWS, resize_short_side_px=256),
        steps=170_000,
        dataset="celeba",
    ),
    "dtd": published("dtd", DeepFillConfig(), WINDOWS, steps=170_000, dataset="dtd-1"),
    "finetune": fine_tuning(
        replace(DeepFillConfig.released(), learning_rate=1e-5), WINDOWS, steps=30_000
    ),
    "cpu": on_two_cores(
        DeepFillConfig(
            channels=16,
            num_dilated=2,
            image_size_px=64,
            local_size_px=32,
            gan="hinge",
            critic_updates=1,
            critic_batches="shared",
            discount="distance",
            discount_rate=0.99,
            hole_weight=6.0,
            known_weight=1.0,
            learning_rate=1e-3,
            beta2=0.999,
        ),
        steps=5000,
    ),
    "smoke": smoke(
        DeepFillConfig.tiny(), BatchConfig(batch_size=12, image_size_px=64, masks=SQUARES)
    ),
}


TABLES = {"places2": "Table 1"}
"""The paper's table that each preset reproduces."""


def main(words: Sequence[str] | None = None) -> None:
    """Train one preset, or resume its run from the newest checkpoint."""
    launch(PRESETS, __doc__ or "", words, TABLES)


if __name__ == "__main__":
    run(main)
