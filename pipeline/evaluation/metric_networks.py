"""The metrics that need a trained network: FID, KID, inception scores, LPIPS.

Each of these metrics is computed with the published network or not at all: without its weights a
table shows "not computed: weights not given", never a number from another network. Weights are
given by path, s3:// or https:// address; a download needs its SHA-256.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from infill.models.weight_files import network_of
from infill.pipeline import downloads
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.network_config import NetworkConfig
from infill.pipeline.metrics.inception import Inception
from infill.pipeline.metrics.lpips import LPIPS
from infill.pipeline.metrics.places365 import PlacesClassifier
from infill.pipeline.weight_import import read_tensors

NOT_GIVEN = "not computed: weights not given"


@dataclass(frozen=True, kw_only=True)
class LoadedNetworks:
    """The networks whose weights were given, ready for use."""

    of_sets: dict[str, Inception | PlacesClassifier]
    """By the name in the metrics' declarations: features and classes, for metrics of sets."""
    lpips: LPIPS | None


def load_networks(config: NetworkConfig, device: str) -> LoadedNetworks:
    """Load the networks whose weights are given.

    Raises:
        UserError: if a file is missing, damaged, or of another network.
    """
    of_sets: dict[str, Inception | PlacesClassifier] = {}
    if config.inception:
        tensors = _read(config.inception, config.inception_sha256)
        of_sets["inception"] = _load_inception(tensors, config.inception).to(device)
    if config.places365:
        tensors = _read(config.places365, config.places365_sha256)
        of_sets["places365"] = _load_places(tensors, config.places365).to(device)
    return LoadedNetworks(of_sets=of_sets, lpips=_load_lpips(config, device))


def _load_lpips(config: NetworkConfig, device: str) -> LPIPS | None:
    if not config.lpips_linear:
        return None
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
    return lpips.to(device)


def _read(location: str, checksum: str) -> Mapping[str, Tensor]:
    return network_of(read_tensors(downloads.fetch(location, checksum or None)))


def _load_inception(tensors: Mapping[str, Tensor], location: str) -> Inception:
    network = Inception()
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        # Files of old PyTorch versions lack the batch counters, which are not used here.
        network.load_state_dict({**counters, **tensors})
    except RuntimeError as error:
        raise UserError(f"{location} is not the Inception of FID: {_first_line(error)}") from error
    return network


def _load_places(tensors: Mapping[str, Tensor], location: str) -> PlacesClassifier:
    try:
        return PlacesClassifier.from_tensors(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{location} is not the ResNet-18 or ResNet-50 of Places365: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
