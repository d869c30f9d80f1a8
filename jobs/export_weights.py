"""Export a checkpoint's generator alone, in half precision: the file to publish.

python jobs/export_weights.py --checkpoint runs/spn --out runs/exported/spn

Evaluation, serving and fine-tuning read the result like any other checkpoint. It has no optimizers
and no discriminators. MI-GAN's parallel kernels are merged into one.
"""

from collections.abc import Sequence

from infill.pipeline.config import parse_one, run
from infill.pipeline.job_summary import inpaint_command, report_results
from infill.pipeline.progress import Progress, file_size
from infill.pipeline.weight_export import ExportConfig, export_weights


def main(words: Sequence[str] | None = None) -> None:
    """Export one checkpoint; print its size, its digest and the next command."""
    config = parse_one(ExportConfig, __doc__, words)
    with Progress(f"export of {config.checkpoint}"):
        found = export_weights(config)
    print(f"exported: {found.location}")
    print(f"weights: {file_size(found.size)}; digest {found.digest}")
    report_results({}, inpaint_command(found.location))


if __name__ == "__main__":
    run(main)
