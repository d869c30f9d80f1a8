"""Fill the hole of one photograph.

python jobs/inpaint.py photo.jpg mask.png
python jobs/inpaint.py photo.jpg mask.png --model spn@champion --out filled.png

The mask has the size of the photograph and is white where the hole is. Without --model the network
that comes with the package fills it. A model is also a version of the registry, a checkpoint, a
run, or a file of its authors. A folder is filled faster by `python jobs/batch_inpaint.py`, which
loads the model once.
"""

from collections.abc import Sequence

from infill.pipeline.config import parse_one, run
from infill.pipeline.inference.image_file import InpaintConfig, inpaint_file


def main(words: Sequence[str] | None = None) -> None:
    """Inpaint one image file, and say where the result is."""
    inpaint_file(parse_one(InpaintConfig, __doc__ or "", words))


if __name__ == "__main__":
    run(main)
