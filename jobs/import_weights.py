"""Import weights that a paper's authors released as a checkpoint: evaluate, serve or fine-tune it.

python jobs/import_weights.py pennet --from gen_00001.pth dis_00001.pth
python jobs/import_weights.py deepfill --from deepfill_places2.npz --out s3://models/deepfill

Every tensor is used exactly once. An error names a tensor that is missing, left over or of another
shape. Give DeepFill's TensorFlow variables as an .npz of arrays by variable name. A training starts
from the checkpoint's weights with ``--init-from``.
"""

from collections.abc import Sequence

from infill.models.config import names
from infill.pipeline import commands
from infill.pipeline.config import parse, run
from infill.pipeline.job_summary import inpaint_command, report_results
from infill.pipeline.weight_import import ImportConfig, import_weights

PRESETS = {name: ImportConfig(architecture=name) for name in names()}


def about(name: str, config: ImportConfig) -> str:
    """Return the paper of an architecture, for the help."""
    return f"{commands.paper(name)} The checkpoint goes to {config.out or f'runs/imported/{name}'}."


def main(words: Sequence[str] | None = None) -> None:
    """Import the files of one architecture; print the checkpoint and the next command."""
    location = import_weights(parse(PRESETS, __doc__, words, about))
    print(f"a checkpoint at {location}")
    report_results({}, inpaint_command(location))


if __name__ == "__main__":
    run(main)
