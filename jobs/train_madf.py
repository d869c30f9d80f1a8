"""Train MADF (IEEE Transactions on Image Processing 2021) on shards of photographs.

python jobs/train_madf.py places2 --data.shards s3://photos/places2 \
    --model.perceptual-weights vgg16.pth --storage s3://runs/madf
python jobs/train_madf.py smoke

The paper trains 300,000 steps on batches of 24, five days on eight GPUs, and reports a PSNR of
26.11 dB over all irregular masks of Places2 (Table I). `smoke` makes its own shards and ends within
a minute.
Interrupted, the same command goes on from the newest checkpoint.
"""

from models.madf.config import MADFConfig
from pipeline.batches import BatchConfig
from pipeline.config import run
from pipeline.launching import launch
from pipeline.masks import MaskConfig
from pipeline.training import TrainConfig

IRREGULAR = MaskConfig(
    recipe="irregular", min_hole_ratio=0.01, max_hole_ratio=0.6, hole_ratios="uniform"
)
"""In place of the irregular masks of Liu et al., whose ratios are spread evenly up to 0.6."""
PHOTOGRAPHS = BatchConfig(
    batch_size=24, image_size_px=256, resize_short_side_px=286, masks=IRREGULAR
)
"""Windows of photographs resized to a short side of 286 px, mirrored. The released 572 px belong to
windows of 512 px."""


def published(data: str, save_every_steps: int) -> TrainConfig:
    """Return the paper's recipe, which is one for all sets."""
    return TrainConfig(
        model=MADFConfig(),
        data=PHOTOGRAPHS,
        storage=f"runs/madf-{data}",
        steps=300_000,
        use_gpu=True,
        save_every_steps=save_every_steps,
        sample_every_steps=save_every_steps,
        report_every_steps=50,
    )


PRESETS = {
    "places2": published("places2", 20_000),
    "celeba": published("celeba", 20_000),
    "paris": published("paris", 5000),
    "smoke": TrainConfig(
        model=MADFConfig.tiny(),
        data=BatchConfig(
            source="bundled",
            shards="runs/smoke/shards",
            batch_size=4,
            image_size_px=32,
            masks=IRREGULAR,
        ),
        storage="runs/smoke/madf",
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
