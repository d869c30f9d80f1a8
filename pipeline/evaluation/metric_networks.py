"""The metrics that need a trained network: FID, KID, inception score, LPIPS.

Each of these metrics is computed with the published network or not at all: without its weights a
table shows "not computed: weights not given", never a number from another network. Weights are
given by path, s3:// or https:// address; a download needs its SHA-256.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from infill.models.weight_files import network_of
from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.network_config import NetworkConfig
from infill.pipeline.metrics.inception import Inception
from infill.pipeline.metrics.lpips import LPIPS
from infill.pipeline.weight_import import read_tensors

NOT_GIVEN = "not computed: weights not given"


@dataclass(frozen=True, kw_only=True)
class LoadedNetworks:
    """The networks whose weights were given, ready for use."""

    inception: Inception | None
    lpips: LPIPS | None


def load_networks(config: NetworkConfig, device: str) -> LoadedNetworks:
    """Load the networks whose weights are given.

    Raises:
        UserError: if a file is missing, damaged, or of another network.
    """
    inception, lpips = None, None
    if config.inception:
        inception = Inception()
        tensors = _read(config.inception, config.inception_sha256)
        _load_inception(inception, tensors, config.inception)
        inception.to(device)
    if config.lpips_linear:
        lpips = LPIPS()
        backbone = _read(config.lpips_backbone, config.lpips_backbone_sha256)
        linear = _read(config.lpips_linear, config.lpips_linear_sha256)
        try:
            lpips.load(backbone, linear)
        except (KeyError, RuntimeError) as error:
            raise UserError(
                f"{config.lpips_backbone} and {config.lpips_linear} are not AlexNet and LPIPS's "
                f"weights for it: {_first_line(error)}"
            ) from error
        lpips.to(device)
    return LoadedNetworks(inception=inception, lpips=lpips)


def _read(location: str, checksum: str) -> Mapping[str, Tensor]:
    return network_of(read_tensors(storage.fetch(location, checksum or None)))


def _load_inception(network: nn.Module, tensors: Mapping[str, Tensor], location: str) -> None:
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        # Files of old PyTorch versions lack the batch counters, which are not used here.
        network.load_state_dict({**counters, **tensors})
    except RuntimeError as error:
        raise UserError(f"{location} is not the Inception of FID: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
