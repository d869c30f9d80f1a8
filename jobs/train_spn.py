"""Train SPN, the semantic pyramid network (Pattern Recognition 2023), on shards of photographs.

python jobs/train_spn.py paris --data.shards s3://photos/paris --storage s3://runs/spn-paris
python jobs/train_spn.py smoke

The papers' presets take about a day on two GPUs for Paris StreetView (SPN, Sec. 4.1.3) and reach a
PSNR of 29.7 dB over all masks (Table 1); `smoke` makes its own shards and ends within a minute.
If a training is interrupted, run the same command again: it resumes from the newest checkpoint.
"""

from collections.abc import Sequence
from dataclasses import replace

from infill.models.spn.config import SPNConfig
from infill.pipeline.config import run
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.train_cli import fine_tuning, launch, on_two_cores, published, smoke
from infill.pipeline.training import TrainConfig

IRREGULAR = MaskConfig(
    recipe="irregular",
    min_hole_ratio=0.01,
    max_hole_ratio=0.6,
    hole_ratios="uniform",
    augmentation="flip",
)
"""In place of the irregular masks of Liu et al., whose ratios are spread evenly up to 0.6."""
SMALL = SPNConfig(
    channels=12,
    num_blocks=2,
    num_dense_blocks=3,
    num_dense_layers=3,
    num_prior_blocks=1,
    teacher="filterbank",
    learning_rate=1e-3,
    adversarial_weight=0.01,
)
"""For two CPU cores: a fifth of the paper's width, and less depth."""
PROBABILISTIC = SPNConfig(variant="probabilistic")
"""It predicts several samples of a hole. Its release has no epochs for Places2."""
SQUASHED = BatchConfig(batch_size=8, image_size_px=256, crop="squash", masks=IRREGULAR)
"""The whole photograph, squashed to a square."""

PRESETS = {
    "paris": published(
        # 14,900 photographs in batches of 8 are 1,862 steps an epoch: 75 epochs, the learning
        # rate drops after 50, the prior loss stops after 60.
        "paris",
        SPNConfig(learning_rate_drop_step=93_100, prior_stop_step=111_720),
        SQUASHED,
        steps=139_650,
        save_every_steps=1862,
        dataset="paris",
    ),
    "celeba": published(
        # 162,000 photographs are 20,250 steps an epoch: 30 epochs and 10 at the low rate.
        "celeba",
        SPNConfig(learning_rate_drop_step=607_500),
        BatchConfig(batch_size=8, image_size_px=256, crop="centre_square", masks=IRREGULAR),
        steps=810_000,
        save_every_steps=5000,
        dataset="celeba",
    ),
    "places2": published(
        # 1,803,460 photographs are 225,433 steps an epoch: 30 epochs and 10 at the low rate.
        "places2",
        SPNConfig(learning_rate_drop_step=6_762_990),
        SQUASHED,
        steps=9_017_320,
        dataset="places2-12k",
    ),
    "probabilistic-celebahq": published(
        # 27,000 photographs are 3,375 steps an epoch: 70 epochs, 50 of them at the high rate; the
        # prior is taught for 60.
        "probabilistic-celebahq",
        replace(PROBABILISTIC, learning_rate_drop_step=168_750, prior_stop_step=202_500),
        SQUASHED,
        steps=236_250,
        save_every_steps=3375,
        dataset="celeba-hq-spn",
    ),
    "probabilistic-paris": published(
        # The same epochs, of 1,862 steps.
        "probabilistic-paris",
        replace(PROBABILISTIC, learning_rate_drop_step=93_100, prior_stop_step=111_720),
        SQUASHED,
        steps=130_340,
        save_every_steps=1862,
        dataset="paris",
    ),
    "probabilistic-places2": published(
        # As the deterministic one: 30 epochs and 10 at the low rate.
        "probabilistic-places2",
        replace(PROBABILISTIC, learning_rate_drop_step=6_762_990),
        SQUASHED,
        steps=9_017_320,
        dataset="places2-12k",
    ),
    "demo": TrainConfig(
        model=SMALL,
        data=BatchConfig(batch_size=16, image_size_px=64, masks=IRREGULAR),
        storage="runs/demo/spn",
        steps=150,
        ema_decay=0.9,
        save_every_steps=50,
        sample_every_steps=50,
        report_every_steps=20,
    ),
    "finetune": fine_tuning(SPNConfig(learning_rate=1e-5), SQUASHED, steps=30_000),
    "cpu": on_two_cores(replace(SMALL, hole_emphasis=5.0, adversarial_weight=0.001), steps=5000),
    "smoke": smoke(SPNConfig.tiny(), BatchConfig(batch_size=4, image_size_px=32, masks=IRREGULAR)),
}


TABLES = {
    "paris": "Table 1",
    "celeba": "Table 1",
    "places2": "Table 1",
    "probabilistic-celebahq": "Table 2",
    "probabilistic-paris": "Table 2",
}
"""The paper's table that each preset reproduces."""


def main(words: Sequence[str] | None = None) -> None:
    """Train one preset, or resume its run from the newest checkpoint."""
    launch(PRESETS, __doc__ or "", words, TABLES)


if __name__ == "__main__":
    run(main)
