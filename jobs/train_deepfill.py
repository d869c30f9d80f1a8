"""Train DeepFill v1, with contextual attention (CVPR 2018), on shards of photographs.

python jobs/train_deepfill.py places2 --data.shards s3://photos/places2 --storage s3://runs/deepfill
python jobs/train_deepfill.py smoke

The paper takes 120 GPU hours and reports a PSNR of 18.91 dB on Places2 (Table 1); its author's
program makes 130,000 to 170,000 steps in that time. A step takes six batches of 16: five for the
critics, one for the generator. `smoke` makes its own shards and ends within a minute.
Interrupted, the same command goes on from the newest checkpoint.
"""

from dataclasses import replace

from models.deepfill.config import DeepFillConfig
from pipeline.batches import BatchConfig
from pipeline.config import run
from pipeline.launching import launch
from pipeline.masks import MaskConfig
from pipeline.training import TrainConfig

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


def published(data: BatchConfig, storage: str) -> TrainConfig:
    """Return the paper's recipe for photographs so prepared."""
    return TrainConfig(
        model=DeepFillConfig(),
        data=data,
        storage=storage,
        steps=170_000,
        use_gpu=True,
        save_every_steps=10_000,
        sample_every_steps=10_000,
        report_every_steps=50,
    )


PRESETS = {
    "places2": published(WINDOWS, "runs/deepfill-places2"),
    "imagenet": published(WINDOWS, "runs/deepfill-imagenet"),
    "celebahq": published(replace(WINDOWS, crop="squash"), "runs/deepfill-celebahq"),
    "celeba": published(replace(WINDOWS, resize_short_side_px=256), "runs/deepfill-celeba"),
    "smoke": TrainConfig(
        model=DeepFillConfig.tiny(),
        data=BatchConfig(
            source="bundled",
            shards="runs/smoke/shards",
            batch_size=12,
            image_size_px=64,
            masks=SQUARES,
        ),
        storage="runs/smoke/deepfill",
        steps=6,
        save_every_steps=3,
        sample_every_steps=6,
        report_every_steps=2,
        validation_samples=8,
    ),
}


def main() -> None:
    """Train one preset, or go on with it."""
    launch(PRESETS, __doc__ or "")


if __name__ == "__main__":
    run(main)
