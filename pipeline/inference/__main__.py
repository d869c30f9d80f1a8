"""Fill the hole of one photograph, as ``jobs/inpaint.py`` does.

python -m infill.pipeline.inference photo.jpg mask.png

The mask has the size of the photograph and is white where the hole is.
"""

from infill.pipeline.config import parse_one, run
from infill.pipeline.inference.image_file import InpaintConfig, inpaint_file


def main() -> None:
    """Inpaint one image file, and say where the result is."""
    inpaint_file(parse_one(InpaintConfig, __doc__ or ""))


if __name__ == "__main__":
    run(main)
