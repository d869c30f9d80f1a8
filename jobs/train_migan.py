"""Train MI-GAN (ICCV 2023) on shards of photographs.

python jobs/train_migan.py places2 --data.shards s3://places2 --model.teacher-weights comodgan.pt
python jobs/train_migan.py smoke

The released configurations train on 50 million images at 256 px and on 25 million at 512 px, in
batches of 32, and distil Co-Mod-GAN. The paper's scores are not repeated here, as its text is not
at hand. `smoke` makes its own shards, has no teacher and ends within a minute.
If a training is interrupted, run the same command again: it resumes from the newest checkpoint.
"""

from collections.abc import Sequence
from dataclasses import replace

from infill.models.migan.config import MIGANConfig
from infill.pipeline.config import run
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.train_cli import fine_tuning, launch, on_two_cores, published, smoke
from infill.pipeline.training import TrainConfig

FREE_FORM = MaskConfig(recipe="free_form")
"""Boxes and strokes of any share in one mask, by Co-Mod-GAN's rule as in the release."""
PHOTOGRAPHS = BatchConfig(batch_size=32, image_size_px=256, crop="squash", masks=FREE_FORM)
"""Whole photographs, mirrored."""
EMA_DECAY = 0.5 ** (32 / 20_000)
"""The EMA of the weights loses half in 20,000 images, as released."""


def recipe(name: str, model: MIGANConfig, steps: int) -> TrainConfig:
    """Return a released training."""
    data = replace(PHOTOGRAPHS, image_size_px=model.image_size_px)
    return replace(published(name, model, data, steps=steps), ema_decay=EMA_DECAY)


PRESETS = {
    "places2": recipe("places2", MIGANConfig(), steps=1_562_500),
    "places2-512": recipe("places2-512", MIGANConfig(image_size_px=512), steps=781_250),
    "ffhq": recipe("ffhq", MIGANConfig(), steps=1_562_500),
    "finetune": fine_tuning(
        replace(MIGANConfig.released(), learning_rate=1e-4), PHOTOGRAPHS, steps=50_000
    ),
    "cpu": on_two_cores(
        MIGANConfig(
            image_size_px=64,
            channel_base=2048,
            channel_max=128,
            num_kernels=4,
            distillation_weight=0.0,
            image_weight=1.0,
            adversarial_weight=0.001,
            generates_again=False,
        ),
        steps=4000,
    ),
    "smoke": smoke(
        MIGANConfig.tiny(), BatchConfig(batch_size=4, image_size_px=32, masks=FREE_FORM)
    ),
}


def main(words: Sequence[str] | None = None) -> None:
    """Train one preset, or resume its run from the newest checkpoint."""
    launch(PRESETS, __doc__ or "", words)


if __name__ == "__main__":
    run(main)
