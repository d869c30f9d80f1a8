"""A run's records for Weights & Biases; needs ``pip install 'infill[wandb]'``."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.temporary_folders import temporary_folder
from infill.pipeline.tracking.records import Record, Report, RunInfo


@contextmanager
def weights_and_biases(info: RunInfo, warn: Callable[[str], None]) -> Iterator[Report]:
    """Log values over ``step`` and sample grids; a resumed run keeps its W&B run.

    Raises:
        UserError: if the package is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"the logger 'wandb' needs Weights & Biases (there is no module {error.name!r}): pip "
            "install 'infill[wandb]', or leave it out of tracking.loggers"
        ) from error
    run = wandb.init(
        project=info.config.experiment,
        name=info.name,
        id=hashlib.sha256(info.run.encode()).hexdigest()[:16],
        resume="allow",
        config=dict(info.settings),
    )
    # Scores arrive later than the losses of the same step, which W&B's own counter would refuse.
    run.define_metric("*", step_metric="step")

    def report(record: Record) -> None:
        if record.values:
            run.log({"step": record.step, **record.values})
        if record.image:
            with temporary_folder() as folder:
                copy = Path(folder, "samples.png")
                copy.write_bytes(storage.read(record.image))
                run.log({"step": record.step, "samples": wandb.Image(str(copy))})

    try:
        yield report
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish(exit_code=0)
