"""Train the small U-Net that comes with this package, on shards of photographs.

python jobs/train_unet.py base --data.shards s3://photographs --use-gpu
python jobs/train_unet.py finetune --data.shards runs/mine --storage runs/mine-base
python jobs/train_unet.py smoke

`base` trained `infill-base`, the network in the package. More photographs and a GPU make a better
one. `finetune` starts from it. Neither needs downloaded weights or a discriminator. `smoke` makes
its own shards and ends within a minute. If a training is interrupted, run the same command again:
it resumes from the newest checkpoint.
"""

from collections.abc import Sequence

from infill.models.schedules import ScheduleConfig
from infill.models.unet.config import UNetConfig
from infill.pipeline.config import run
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.pretrained import DEFAULT
from infill.pipeline.train_cli import launch, on_two_cores, smoke
from infill.pipeline.training import TrainConfig

EVERYDAY = MaskConfig(
    recipe="mixed",
    mixture=(("strokes", 2.0), ("box", 1.0), ("irregular", 1.0)),
    min_hole_ratio=0.05,
    max_hole_ratio=0.5,
    hole_ratios="uniform",
)
"""Holes of all sizes. `infill-base` had outlines of objects (`silhouettes`) in place of irregular
masks; they need a folder of masks."""
COSINE = ScheduleConfig(name="cosine", warmup_steps=50)
"""To nothing at the last step: the last steps average out what single batches push about."""

PRESETS = {
    "base": TrainConfig(
        model=UNetConfig(schedule=COSINE),
        data=BatchConfig(batch_size=16, image_size_px=256, random_resize=4.0, masks=EVERYDAY),
        storage="runs/unet-base",
        steps=100_000,
        ema_decay=0.999,
        save_every_steps=1000,
        sample_every_steps=1000,
        report_every_steps=50,
    ),
    "finetune": TrainConfig(
        model=UNetConfig(learning_rate=2e-4, schedule=COSINE),
        data=BatchConfig(batch_size=8, image_size_px=128, masks=EVERYDAY),
        storage="runs/unet-finetuned",
        steps=120,
        init_from=DEFAULT,
        ema_decay=0.9,
        save_every_steps=60,
        sample_every_steps=60,
        report_every_steps=20,
    ),
    "cpu": on_two_cores(UNetConfig(channels=(24, 40, 64, 96)), steps=4000),
    "smoke": smoke(UNetConfig.tiny(), BatchConfig(batch_size=4, image_size_px=32, masks=EVERYDAY)),
}


def main(words: Sequence[str] | None = None) -> None:
    """Train one preset, or resume its run from the newest checkpoint."""
    launch(PRESETS, __doc__ or "", words)


if __name__ == "__main__":
    run(main)
