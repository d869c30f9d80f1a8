"""Export a checkpoint's generator alone, in half precision: the file to publish.

python jobs/export_weights.py --checkpoint runs/spn --out runs/exported/spn

Evaluation, serving and fine-tuning read the result like any other checkpoint. It has no optimizers
and no discriminators. MI-GAN's parallel kernels are merged into one.
"""

from collections.abc import Sequence

from infill.pipeline.config import parse_one, run
from infill.pipeline.progress import file_size
from infill.pipeline.weight_export import ExportConfig, export_weights


def main(words: Sequence[str] | None = None) -> None:
    """Export one checkpoint and print its size and digest."""
    found = export_weights(parse_one(ExportConfig, __doc__, words))
    print(f"exported: {found.location}")
    print(f"weights: {file_size(found.size)}; digest {found.digest}")


if __name__ == "__main__":
    run(main)
