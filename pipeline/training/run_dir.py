"""The run directory: its data, whether a run may resume there, its best checkpoint."""

from infill.pipeline import checkpoints, storage
from infill.pipeline.config import from_dict, to_dict
from infill.pipeline.errors import UserError
from infill.pipeline.loading import names_tars
from infill.pipeline.training.config import TrainConfig

SCORE = "hole_psnr"
"""The validation score that selects a run's best checkpoint; higher is better."""


def find_sets(shards: str, validation_shards: str = "") -> tuple[str, str | None]:
    """Return the training set and the validation set (or None) at a location of shards.

    Args:
        shards: a shard set, a folder with one for each split, or tars by name.
        validation_shards: the validation set, if it is not the val split there.
    """
    shards = storage.absolute(shards)
    training, validation = storage.join(shards, "train"), storage.join(shards, "val")
    if names_tars(shards) or not storage.exists(training):
        training, validation = shards, ""
    if validation_shards:
        return training, storage.absolute(validation_shards)
    return training, validation if validation and storage.exists(validation) else None


def require_same_run(config: TrainConfig, newest: str) -> None:
    """Refuse to resume a run with another model, data configuration or seed.

    Fields that are newer than the run have their defaults, and renamed ones their new names.

    Raises:
        UserError: naming the first field that differs.
    """
    before, now = checkpoints.read_config(newest), to_dict(config)
    for part in ("model", "data"):
        kind = type(getattr(config, part))
        before[part] = to_dict(from_dict(kind, before[part], f"{newest}: {part}"))
    free = {"shards", "validation_shards", "num_decode_workers", "prefetch_batches", "loader"}
    free |= {"verify_checksums", "skip_damaged", "cache_folder", "cache_size_gb"}
    for part in ("model", "data", "seed", "ema_decay"):
        old, new = before[part], now[part]
        if isinstance(old, dict):
            changed = [key for key in new if key not in free and old.get(key) != new[key]]
        else:
            changed = [""] if old != new else []
        if changed:
            name = f"{part}.{changed[0]}".rstrip(".")
            raise UserError(
                f"{config.storage} holds a run with another {name}; "
                "give a new --storage, or delete that folder to start over"
            )


def require_same_optimizers(config: TrainConfig) -> None:
    """Refuse to resume from a checkpoint whose optimizer state belongs to another optimizer.

    Raises:
        UserError: naming the field that differs.
    """
    values = checkpoints.read_config(config.resume_from)["model"]
    before = from_dict(type(config.model), values, f"{config.resume_from}: model")
    for role, field in (("generator", "optimizer"), ("discriminator", "discriminator_optimizer")):
        old, new = (model.optimizer_of(role).name for model in (before, config.model))
        if old != new:
            raise UserError(
                f"model.{field}.name is {old!r} in {config.resume_from} and {new!r} here, which "
                "cannot use its optimizer state; --init-from takes the weights alone"
            )


def best(run: str) -> tuple[str, dict[str, float]]:
    """Return a run's best intact checkpoint by :data:`SCORE`, and its validation scores.

    Raises:
        UserError: if the run has no checkpoint.
    """
    return checkpoints.best(run, SCORE)
