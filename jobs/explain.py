"""Show what a checkpoint thinks while it fills a hole, in its paper's own pictures.

python jobs/explain.py --checkpoint runs/pennet --image photo.jpg --mask hole.png
python jobs/explain.py --checkpoint runs/spn --image photo.jpg --masks.recipe strokes

PEN-Net shows its pyramid and where the hole's middle looks, DeepFill the flow of its attention,
MADF the kernels that a mask gets, SPN its priors in eight groups and several draws, DeepGIN its
coarse and small pictures, LaMa what local and global maps hold. White is the hole; without a mask
one is drawn.
"""

from collections.abc import Sequence

from infill.pipeline import visualize
from infill.pipeline.config import parse_one, run
from infill.pipeline.job_summary import announce_start
from infill.pipeline.visualize import VisualizeConfig


def main(words: Sequence[str] | None = None) -> None:
    """Write every picture and a sheet of them."""
    config = parse_one(VisualizeConfig, __doc__, words)
    announce_start(f"visualization of {config.checkpoint} on {config.image}")
    for name, location in visualize.visualize(config).items():
        print(f"{name}: {location}")


if __name__ == "__main__":
    run(main)
