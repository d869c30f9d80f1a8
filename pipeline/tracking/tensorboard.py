"""A run's records for TensorBoard: ``tensorboard --logdir runs``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.tracking.records import Record, Report, RunInfo

FOLDER = "tensorboard"
"""Folder of the event files within the run's folder."""


@contextmanager
def tensorboard(info: RunInfo, warn: Callable[[str], None]) -> Iterator[Report]:
    """Write values, images and settings as event files.

    Raises:
        UserError: if the run is not stored on this machine, where TensorBoard could read it.
    """
    if storage.is_remote(info.run):
        raise UserError(
            f"the logger 'tensorboard' writes to a local folder, and the run goes to {info.run}: "
            "leave it out of tracking.loggers"
        )
    from tensorboardX import SummaryWriter

    with SummaryWriter(storage.join(storage.absolute(info.run), FOLDER)) as writer:
        rows = [f"    {name}: {value}" for name, value in sorted(info.settings.items())]
        writer.add_text("settings", "\n".join(rows), info.first_step)

        def report(record: Record) -> None:
            for name, value in record.values.items():
                writer.add_scalar(name, value, record.step)
            if record.image:
                writer.add_image("samples", _pixels(record.image), record.step, dataformats="HWC")
            writer.flush()

        yield report


def _pixels(location: str) -> object:
    from infill.pipeline.images import decode_sample

    return decode_sample(storage.read(location))
