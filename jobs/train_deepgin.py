"""Train DeepGIN (ECCV Workshops 2020) on shards of photographs.

python jobs/train_deepgin.py ade20k --data.shards s3://ade20k --model.perceptual-weights vgg19.pth
python jobs/train_deepgin.py smoke

One run trains ten epochs with L1 losses, then a hundred with two discriminators. On CelebA-HQ the
paper trains for six days on two GPUs and reports a PSNR of 33.26 dB over three kinds of masks
(Table 1). On ADE20K it trains for two and a half days. `ade20k-guided` also sees label maps, from
shards made with `python jobs/make_shards.py ade20k-deepgin --source DIR --labels DIR/annotations`.
`smoke` makes its own shards and ends within a minute.
If a training is interrupted, run the same command again: it resumes from the newest checkpoint.
"""

from collections.abc import Sequence
from dataclasses import replace

from infill.models.deepgin.config import DeepGINConfig
from infill.pipeline.config import run
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.train_cli import fine_tuning, launch, on_two_cores, published, smoke

THREE_KINDS = MaskConfig(
    recipe="mixed",
    mixture=(("box", 1.0), ("long_strokes", 1.0), ("automaton", 1.0)),
    in_turn=True,
)
"""Rectangles of 30 to 70 % of the sides, strokes and cellular automata: each photograph of a batch
is there three times, once under each."""
PHOTOGRAPHS = BatchConfig(
    batch_size=12,
    image_size_px=256,
    crop="subsample",
    quarter_turns=True,
    masks=THREE_KINDS,
    masks_per_image=3,
)
"""Squashed to 512 px, of which every second pixel is kept; turned by quarters and mirrored."""

PRESETS = {
    "ade20k": published(
        # 10,330 photographs in batches of 4 are 2,582 steps an epoch; 10 + 100 epochs.
        "ade20k",
        DeepGINConfig(epoch_steps=2582, warm_up_epochs=10, decay_epochs=90),
        PHOTOGRAPHS,
        steps=284_020,
        save_every_steps=2582,
        dataset="ade20k-deepgin",
    ),
    "ade20k-guided": published(
        # Both networks see the label map of the whole photograph, too.
        "ade20k-guided",
        DeepGINConfig(
            segmentation_guided=True, epoch_steps=2582, warm_up_epochs=10, decay_epochs=90
        ),
        replace(PHOTOGRAPHS, label_maps=True),
        steps=284_020,
        save_every_steps=2582,
        dataset="ade20k-deepgin",
    ),
    "celebahq": published(
        # 27,000 photographs in batches of 4 are 6,750 steps an epoch; 10 + 100 epochs.
        "celebahq",
        DeepGINConfig(epoch_steps=6750, warm_up_epochs=10, decay_epochs=90),
        PHOTOGRAPHS,
        steps=742_500,
        save_every_steps=6750,
        dataset="celeba-hq-deepgin",
    ),
    "finetune": fine_tuning(
        DeepGINConfig(learning_rate=1e-5, discriminator_learning_rate=4e-5),
        PHOTOGRAPHS,
        steps=30_000,
    ),
    "cpu": on_two_cores(
        # The first stage, L1 alone, is two thirds; then the discriminators join.
        DeepGINConfig(
            channels=8,
            coarse_rates=(1, 2, 4, 8),
            refine_rates=(1, 2),
            num_coarse_blocks=3,
            num_refine_blocks=3,
            initial_gain=1.0,
            perceptual_weight=0.0,
            style_weight=0.0,
            learning_rate=1e-3,
            epoch_steps=500,
            warm_up_epochs=16,
            constant_epochs=2,
            decay_epochs=6,
        ),
        steps=12_000,
    ),
    "smoke": smoke(
        DeepGINConfig.tiny(),
        BatchConfig(batch_size=6, image_size_px=32, masks=THREE_KINDS, masks_per_image=3),
    ),
}


TABLES = {"celebahq": "Table 1"}
"""The paper's table that each preset reproduces."""


def main(words: Sequence[str] | None = None) -> None:
    """Train one preset, or resume its run from the newest checkpoint."""
    launch(PRESETS, __doc__ or "", words, TABLES)


if __name__ == "__main__":
    run(main)
