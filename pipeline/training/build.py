"""Build the networks, optimizers and teachers of a model, and the EMA of its generator."""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from infill.models.activation_checkpointing import recompute
from infill.models.architecture import ModelConfig, Objective, Prepare, Updating, load
from infill.models.seeding import seeded
from infill.pipeline import checkpoints, downloads, storage
from infill.pipeline.config import flatten, override
from infill.pipeline.errors import UserError
from infill.pipeline.training.config import TrainConfig
from infill.pipeline.training.distributed import WorkerContext


def build_objective(config: TrainConfig, worker: WorkerContext) -> Objective:
    """Build networks, optimizers and teachers; files of weights are fetched to this machine.

    Raises:
        UserError: if a file of weights is missing or has another checksum.
    """
    spread: list[nn.Module] = []

    def prepare(network: nn.Module) -> nn.Module:
        spread.append(worker.prepare(network))
        return spread[-1]

    with seeded(config.seed, worker.device), torch.device(worker.device):
        objective = _built(config, prepare)
    objective.spread = tuple(one for one in spread if isinstance(one, DistributedDataParallel))
    objective.total_steps = config.steps
    objective.updating = Updating(
        parts=config.accumulate, max_gradient_norm=config.max_gradient_norm
    )
    if config.recompute:
        recompute(objective.generator, load(config.model.architecture).blocks)
    if config.compile:
        mode = "reduce-overhead" if config.cuda_graphs else None
        objective.generator.compile(fullgraph=True, mode=mode)
    return objective


def require_weights(config: TrainConfig) -> None:
    """Check on the driver that every file that workers will load exists and is the right one.

    Nothing is sharded and no GPU is used before that: the networks are built without data. A run
    that has a checkpoint does not need what it was started from.

    Raises:
        UserError: naming the file or field, as :func:`build_objective` does on a worker.
    """
    if config.resume_from:
        checkpoints.find(config.resume_from)
    begins = config.init_from and not checkpoints.steps(config.storage)
    initial = checkpoints.find(config.init_from) if begins else ""
    with warnings.catch_warnings(), seeded(config.seed), torch.device("meta"):
        warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
        objective = _built(config, lambda network: network)
        if initial:
            checkpoints.initialize(initial, objective)


def _built(config: TrainConfig, prepare: Prepare) -> Objective:
    model = with_local_weights(config.model)
    try:
        objective = load(model.architecture).objective(model, prepare)
    except ValueError as error:
        raise UserError(str(error)) from error
    if config.static_graph and not load(model.architecture).static_graph:
        raise UserError(f"the steps of {model.architecture} differ: leave static_graph off")
    if config.accumulate > 1 and not objective.updates_once:
        raise UserError(
            f"{model.architecture} cuts its batches itself, one part for each update within a "
            "step; leave accumulate at 1 and choose a smaller data.batch_size"
        )
    return objective


def with_local_weights(model: ModelConfig) -> ModelConfig:
    """Return the configuration with every file of weights on this machine.

    A field ``NAME_weights`` that holds an address (s3:// or https://) is fetched and compared
    with ``NAME_sha256``.

    Raises:
        UserError: if the checksum is absent or differs, or the address does not answer.
    """
    values = flatten(model)
    addresses = {
        name: str(value)
        for name, value in values.items()
        if name.endswith("_weights") and isinstance(value, str) and storage.is_remote(value)
    }
    return override(
        model,
        {
            name: str(downloads.fetch(address, values[name.removesuffix("weights") + "sha256"]))
            for name, address in addresses.items()
        },
    )


class ExponentialMovingAverage:
    """The exponential moving average of a generator, the same on every worker.

    The tensors of both networks are looked up once: an update is one call for all of them, which a
    GPU runs as a few kernels. Both networks must keep their tensors, as ``load_state_dict`` does.
    """

    def __init__(self, generator: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(generator).eval().requires_grad_(False)
        ours, theirs = self.network.state_dict(), generator.state_dict()
        pairs = [(average, theirs[name]) for name, average in ours.items()]
        self._averaged = _columns([pair for pair in pairs if pair[0].is_floating_point()])
        self._copied = _columns([pair for pair in pairs if not pair[0].is_floating_point()])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the generator; faster in the first steps, to forget the random weights.

        Integers, such as the steps that a batch norm has counted, are copied.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._averaged, 1 - decay)
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]
