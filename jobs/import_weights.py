"""Turn weights that their authors released into a checkpoint: to evaluate, serve or fine-tune.

python jobs/import_weights.py pennet --from gen_00001.pth dis_00001.pth
python jobs/import_weights.py deepfill --from deepfill_places2.npz --out s3://models/deepfill

Every tensor is used exactly once, and one too many, too few or of another shape is named. The
TensorFlow variables of DeepFill are given as an .npz of arrays by variable name. Start a training
from the checkpoint with ``--init-from``, which takes its weights alone; a run that is interrupted
goes on from its own checkpoints by itself, optimizers, step and schedules included.
"""

from collections.abc import Sequence

from infill.models.config import names
from infill.pipeline import commands
from infill.pipeline.config import parse, run
from infill.pipeline.weight_import import ImportConfig, import_weights

PRESETS = {name: ImportConfig(architecture=name) for name in names()}


def about(name: str, config: ImportConfig) -> str:
    """Return which paper an architecture is of."""
    return f"{commands.paper(name)} The checkpoint goes to {config.out or f'runs/imported/{name}'}."


def main(words: Sequence[str] | None = None) -> None:
    """Import one architecture's files."""
    location = import_weights(parse(PRESETS, __doc__, words, about))
    print(f"a checkpoint at {location}")


if __name__ == "__main__":
    run(main)
