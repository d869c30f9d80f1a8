"""Train AOT-GAN (TVCG 2022) on shards of photographs.

python jobs/train_aotgan.py places2 --data.shards s3://places2 --model.perceptual-weights vgg19.pth
python jobs/train_aotgan.py smoke

The released code trains a million steps on batches of eight at 512 px. The paper's scores are not
repeated here, as its text is not at hand. `smoke` makes its own shards and ends within a minute.
If a training is interrupted, run the same command again: it resumes from the newest checkpoint.
"""

from collections.abc import Sequence

from infill.models.aotgan.config import AOTGANConfig
from infill.pipeline.config import run
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.train_cli import fine_tuning, launch, on_two_cores, published, smoke

IRREGULAR = MaskConfig(
    recipe="irregular", min_hole_ratio=0.01, max_hole_ratio=0.6, hole_ratios="uniform"
)
"""In place of the irregular masks of Liu et al., whose ratios are spread evenly up to 0.6."""
PHOTOGRAPHS = BatchConfig(
    batch_size=8,
    image_size_px=512,
    random_resize=3.5,
    enlarge_small_images=True,
    colour_jitter=0.05,
    masks=IRREGULAR,
)
"""Windows of 512 px at random scales, from the whole short side to a twelfth of the area, mirrored,
their colours jittered. The released windows are stretched by up to a third as well."""

PRESETS = {
    "places2": published("places2", AOTGANConfig(), PHOTOGRAPHS, steps=1_000_000),
    "celebahq": published("celebahq", AOTGANConfig(), PHOTOGRAPHS, steps=1_000_000),
    "logo": published("logo", AOTGANConfig(), PHOTOGRAPHS, steps=1_000_000),
    "finetune": fine_tuning(AOTGANConfig(learning_rate=1e-5), PHOTOGRAPHS, steps=50_000),
    "cpu": on_two_cores(
        AOTGANConfig(
            channels=16,
            num_blocks=4,
            discriminator_channels=8,
            blur_px=9,
            blur_deviation_px=1.25,
            style_weight=0.0,
            perceptual_weight=0.0,
            learning_rate=5e-4,
        ),
        steps=4000,
    ),
    "smoke": smoke(
        AOTGANConfig.tiny(), BatchConfig(batch_size=4, image_size_px=32, masks=IRREGULAR)
    ),
}


def main(words: Sequence[str] | None = None) -> None:
    """Train one preset, or resume its run from the newest checkpoint."""
    launch(PRESETS, __doc__ or "", words)


if __name__ == "__main__":
    run(main)
