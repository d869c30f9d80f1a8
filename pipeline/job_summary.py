"""The lines a job prints before and after its work: plan, how to watch it, results, next command.

The jobs and ``train_cli`` call it, so that every job says the same things in the same words; the
packages that do the work log their progress alone. It knows where runs are logged, and stands below
``tracking`` for that.
"""

from collections.abc import Mapping, Sequence

from infill.pipeline import database_addresses, storage
from infill.pipeline.commands import typed
from infill.pipeline.progress import Log
from infill.pipeline.registry.config import RegistryConfig
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.tracking.config import MLflowConfig
from infill.pipeline.tracking.tensorboard import FOLDER

WIDTH = 13
"""Width of the column of names."""
PHOTO = ("photo.jpg", "mask.png")
"""The user's own files in a next command."""


def announce_start(what: str, log: Log = print) -> None:
    """Print a job's first line, before it imports PyTorch or reads any data, which take a while.

    Args:
        what: the work and its inputs, as far as the command line names them.
        log: takes a line at a time.
    """
    log(f"{what} ...")


def announce(
    what: str,
    *,
    out: str = "",
    resumes: str = "",
    watch: Sequence[str] = (),
    log: Log = print,
) -> None:
    """Print what a job is about to do.

    Args:
        what: the work and its size, such as "evaluation of spn on 60 pairs".
        out: where the results are written; "" for a job that writes none.
        resumes: from where an interrupted job goes on, such as "from step 300"; "" if it does not.
        watch: commands and addresses, as of :func:`watching`.
        log: takes a line at a time.
    """
    log(what)
    if resumes:
        log(_row("resumes", resumes))
    if out:
        log(_row("written to", storage.absolute(out)))
    if watch:
        log("watch it with:")
        for line in watch:
            log(f"  {line}")


def watching(tracking: TrackingConfig, run: str, loggers: bool = True) -> list[str]:
    """Return the commands that show a run while it goes on, of the loggers that are on.

    Args:
        tracking: of the run.
        run: its folder, or that of all runs of a search.
        loggers: False for what is written to MLflow whatever ``tracking.loggers`` names.
    """
    names, found = tracking.loggers, []
    if tracking.tracking_uri and (not loggers or "mlflow" in names):
        found.append(mlflow_ui(tracking))
    if "tensorboard" in names:
        folder = storage.join(storage.absolute(run), FOLDER) if loggers else storage.absolute(run)
        found.append(f"tensorboard --logdir {folder}")
    if "wandb" in names:
        found.append(f"Weights & Biases, project {tracking.experiment}")
    return found


def mlflow_ui(config: MLflowConfig) -> str:
    """Return the command that opens MLflow's pages, or their address where a server shows them."""
    uri = database_addresses.database_uri(config.tracking_uri)
    if uri.startswith(("http://", "https://")):
        return f"MLflow at {uri}"
    return f"mlflow ui --backend-store-uri {uri}"


def report_results(
    files: Mapping[str, str], *commands: str, why: str = "", log: Log = print
) -> None:
    """Print where the results of a job are, and what to run next.

    Args:
        files: locations by what they hold.
        commands: that can be run next, as of :func:`infill.pipeline.commands.typed`.
        why: a sentence before the commands, such as a warning.
        log: takes a line at a time.
    """
    for name, location in files.items():
        log(_row(name, location))
    if why:
        log(why)
    if commands:
        log("next:")
        for command in commands:
            log(f"  {command}")


def registry_words(registry: MLflowConfig, field: str = "registry") -> list[str]:
    """Return the flags that lead another job to a registry; none where it is the default one."""
    usual = RegistryConfig()
    words = []
    if registry.tracking_uri != usual.tracking_uri:
        words += [f"--{field}.tracking-uri", registry.tracking_uri]
    if registry.artifacts != usual.artifacts:
        words += [f"--{field}.artifacts", registry.artifacts]
    return words


def inpaint_command(model: str, registry: MLflowConfig | None = None) -> str:
    """Return the command that inpaints one image with a model."""
    words = registry_words(registry) if registry is not None else []
    return typed("inpaint", *PHOTO, "--model", model, *words)


def test_set_of(shards: str) -> str:
    """Return the test set that belongs to a location of shards; "" if there is none.

    Args:
        shards: a folder with a set for each split, or the training set in such a folder.
    """
    parent = storage.absolute(shards).rstrip("/").rpartition("/")[0]
    for folder in (storage.absolute(shards), parent):
        location = storage.join(folder, "test")
        if storage.exists(storage.join(location, "manifest.parquet")):
            return location
    return ""


def _row(name: str, value: str) -> str:
    return f"{name:<{WIDTH}}{value}"
