"""Train DeepFill v2, free-form inpainting with gated convolution (ICCV 2019), on photographs.

python jobs/train_deepfill2.py places2 --data.shards s3://photos/places2 --storage s3://runs/deepfill2
python jobs/train_deepfill2.py smoke

It is the baseline of two of the other papers. A step takes two batches of 16, one for the
discriminator and one for the generator. `smoke` makes its own shards and ends within a minute.
If a training is interrupted, run the same command again: it resumes from the newest checkpoint.
"""

from collections.abc import Sequence
from dataclasses import replace

from infill.models.deepfill2.config import DeepFill2Config
from infill.pipeline.config import run
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.train_cli import fine_tuning, launch, on_two_cores, published, smoke

FREE_FORM = MaskConfig(recipe="mixed", mixture=(("strokes", 1.0), ("square", 1.0)), union=True)
"""Strokes and a square at once, as the release takes them: 31 % of the frame on average."""
WINDOWS = BatchConfig(
    batch_size=32,
    image_size_px=256,
    enlarge_small_images=True,
    horizontal_flip=False,
    masks=FREE_FORM,
)
"""Windows at the photographs' own scale, neither mirrored nor recoloured."""

PRESETS = {
    "places2": published("places2", DeepFill2Config(), WINDOWS, steps=1_000_000, dataset="places2"),
    "finetune": fine_tuning(
        replace(DeepFill2Config.released(), learning_rate=1e-5), WINDOWS, steps=30_000
    ),
    "cpu": on_two_cores(
        DeepFill2Config(
            channels=24,
            num_dilated=2,
            discriminator_channels=8,
            discriminator_batches="shared",
            adversarial_weight=0.001,
            learning_rate=5e-4,
        ),
        steps=4000,
    ),
    "smoke": smoke(
        DeepFill2Config.tiny(), BatchConfig(batch_size=4, image_size_px=64, masks=FREE_FORM)
    ),
}


def main(words: Sequence[str] | None = None) -> None:
    """Train one preset, or resume its run from the newest checkpoint."""
    launch(PRESETS, __doc__ or "", words)


if __name__ == "__main__":
    run(main)
