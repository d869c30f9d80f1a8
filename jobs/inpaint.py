"""Inpaint one photograph.

python jobs/inpaint.py photo.jpg mask.png
python jobs/inpaint.py photo.jpg mask.png --model spn@champion --out filled.png

The mask has the size of the photograph, and the hole is white. Without --model, the model is
`infill-base`, which comes with the package. --model takes a version of the registry, a checkpoint,
a run, or a file that the authors of a paper released. For a folder, `python jobs/batch_inpaint.py`
is faster, because it loads the model once.
"""

from collections.abc import Sequence

from infill.pipeline.config import parse_one, run
from infill.pipeline.inference.image_file import InpaintConfig, inpaint_file


def main(words: Sequence[str] | None = None) -> None:
    """Inpaint one image file, and print where the composite is."""
    inpaint_file(parse_one(InpaintConfig, __doc__ or "", words))


if __name__ == "__main__":
    run(main)
