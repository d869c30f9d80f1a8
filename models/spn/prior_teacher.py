"""The teacher of SPN's Table 5: the prior pyramid of another, trained SPN."""

from pathlib import Path

import torch
from torch import Tensor, nn

from infill.models.layers import at_rest
from infill.models.spn.config import SPNConfig
from infill.models.spn.networks import Generator
from infill.models.spn.teacher import WIDTHS, build_teacher
from infill.models.spn.weights import generator_of, read_release
from infill.models.weight_files import network_of, read_weights, sha256_of


class PriorTeacher(nn.Module):
    """A trained SPN that looks at complete images: no pixel of them is hidden."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Look at complete images [B, 3, H, W] in [-1, 1].

        Returns:
            The prior pyramid: [B, 256, H/4, W/4], [B, 128, H/2, W/2] and [B, 64, H, W].
        """
        nothing_hidden = torch.zeros_like(image[:, :1])
        return self.generator.prior_pyramid(image, nothing_hidden)


def build_any_teacher(config: SPNConfig) -> nn.Module | None:
    """Return a configuration's frozen teacher, or None where nothing is taught.

    Raises:
        ValueError: if a teacher's file is missing, is another one, or holds another network.
    """
    if config.teacher != "spn" or not config.has_heads:
        return build_teacher(config)
    file = _file_of(config)
    released = read_release(network_of(read_weights(file)))
    assert isinstance(released.config, SPNConfig)
    if released.config.prior_levels != 3 or released.config.channels * 4 != WIDTHS["spn"][0]:
        raise ValueError(
            f"prior_teacher_weights: {file} must be an SPN with three levels, of "
            f"{WIDTHS['spn']} maps"
        )
    generator = generator_of(released.config)
    generator.load_state_dict(released.states["generator"], assign=True)
    return at_rest(PriorTeacher(generator))


def _file_of(config: SPNConfig) -> Path:
    if config.prior_teacher_weights is None:
        raise ValueError(
            "teacher 'spn' needs prior_teacher_weights, the path of an SPN in its authors' file "
            "format, such as their SPN of Places2"
        )
    file = Path(config.prior_teacher_weights).expanduser()
    if not file.is_file():
        raise ValueError(f"prior_teacher_weights: there is no file {file}")
    if config.prior_teacher_sha256 is not None:
        found = sha256_of(file)
        if found != config.prior_teacher_sha256.lower():
            raise ValueError(
                f"prior_teacher_sha256 is {config.prior_teacher_sha256}, but {file} has {found}; "
                "get the file again"
            )
    return file
