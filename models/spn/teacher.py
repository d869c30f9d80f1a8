"""Frozen teachers, whose features of the complete image the prior pyramid imitates (Eq. 1).

A teacher maps images to three feature maps, coarsest first. The paper's is TResNet-L, trained by
others for multi-label classification; Fig. 8 has YOLOv5 and HRNet as well; the rest need no file.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_rest
from infill.models.spn.config import SPNConfig
from infill.models.spn.hrnet import load_hrnet
from infill.models.spn.tresnet import folded, load_network, random_network
from infill.models.spn.yolo import load_yolo

NUM_ORIENTATIONS = 4
WIDTHS: dict[str, tuple[int, int, int]] = {
    "asl": (152, 76, 76),
    "random": (152, 76, 76),
    "filterbank": (3 + 3 * NUM_ORIENTATIONS,) * 3,
    "edge": (1, 1, 1),
    "spn": (256, 128, 64),
    "detection": (256, 128, 64),
    "segmentation": (96, 48, 64),
}
"""Channels of each teacher's maps, coarsest level first."""


class FilterBank(nn.Module):
    """A teacher nobody trained: colour means and oriented Gabor filters at three scales.

    At each scale: three colour means, an even and an odd Gabor response to the grey value for four
    orientations, and the local energy of each such pair. It needs no file and knows no objects; it
    replaces the paper's teacher if that is not available.
    """

    size_px = 7
    wavelength_px = 4.0
    deviation_px = 1.7
    window_px = 5
    """Over which colours and energies are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", self._filters(), persistent=False)

    filters: Tensor

    def _filters(self) -> Tensor:
        """Return [2 * orientations, 1, 7, 7]: even filters, then odd, of zero mean and unit sum."""
        reach = self.size_px // 2
        row, column = torch.meshgrid(
            torch.arange(-reach, reach + 1.0), torch.arange(-reach, reach + 1.0), indexing="ij"
        )
        angles = torch.arange(NUM_ORIENTATIONS)[:, None, None] * math.pi / NUM_ORIENTATIONS
        phase = (column * angles.cos() + row * angles.sin()) * (2 * math.pi / self.wavelength_px)
        window = torch.exp(-(row**2 + column**2) / (2 * self.deviation_px**2))
        even = window * (phase.cos() - (window * phase.cos()).sum((1, 2), True) / window.sum())
        filters = torch.cat([even, window * phase.sin()])
        return (filters / filters.abs().sum((1, 2), keepdim=True))[:, None]

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look at complete images [B, 3, H, W] in [-1, 1]; [B, 15, ...] at H/4, H/2 and H."""
        fine = (image + 1.0) / 2.0
        middle = functional.avg_pool2d(fine, 2)
        coarse = functional.avg_pool2d(middle, 2)
        return self._look(coarse), self._look(middle), self._look(fine)

    def _look(self, colours: Tensor) -> Tensor:
        reach = self.size_px // 2
        grey = functional.pad(colours.mean(1, keepdim=True), (reach,) * 4, mode="replicate")
        with torch.autocast(colours.device.type, enabled=False):
            responses = functional.conv2d(grey, self.filters.to(grey.dtype))
        even, odd = responses.chunk(2, dim=1)
        energies = torch.hypot(even, odd)
        return torch.cat([self._average(colours), responses, self._average(energies)], dim=1)

    def _average(self, maps: Tensor) -> Tensor:
        return functional.avg_pool2d(
            maps, self.window_px, stride=1, padding=self.window_px // 2, count_include_pad=False
        )


class Edges(nn.Module):
    """The weakest teacher of Fig. 8: how steep the grey value is, at three scales."""

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look at complete images [B, 3, H, W] in [-1, 1]; [B, 1, ...] at H/4, H/2 and H."""
        fine = (image.mean(1, keepdim=True) + 1.0) / 2.0
        middle = functional.avg_pool2d(fine, 2)
        coarse = functional.avg_pool2d(middle, 2)
        return _steepness(coarse), _steepness(middle), _steepness(fine)


def _steepness(grey: Tensor) -> Tensor:
    padded = functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2.0
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2.0
    return torch.hypot(across, down)


class DoublingTeacher(nn.Module):
    """A network of others on the image at twice its size, in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look at complete images [B, 3, H, W] in [-1, 1].

        Returns:
            Maps at H/4, H/2 and H. TResNet's are [B, 152, H/4, W/4], [B, 76, H/2, W/2] and again
            [B, 76, H/2, W/2]: the finest level has no map of its own, it is taught by the stem's,
            repeated. TResNet's and YOLO's colours are not normalised, HRNet normalises its own.
        """
        doubled = functional.interpolate((image + 1.0) / 2.0, scale_factor=2.0, mode="bilinear")
        maps: tuple[Tensor, Tensor, Tensor] = self.network(doubled)
        return maps


def build_teacher(config: SPNConfig) -> nn.Module | None:
    """Return a configuration's frozen teacher, or None where nothing is taught.

    Raises:
        ValueError: if the teacher's file is missing, is another one, or holds another network.
    """
    if not config.has_heads:
        return None
    teacher: nn.Module
    if config.teacher == "asl":
        network = load_network(config.teacher_weights, config.teacher_sha256)
        teacher = DoublingTeacher(folded(network))
    elif config.teacher == "random":
        teacher = DoublingTeacher(folded(random_network()))
    elif config.teacher == "detection":
        detector = load_yolo(config.detection_weights, config.detection_sha256)
        teacher = DoublingTeacher(detector)
    elif config.teacher == "segmentation":
        segmenter = load_hrnet(config.segmentation_weights, config.segmentation_sha256)
        teacher = DoublingTeacher(segmenter)
    else:
        teacher = FilterBank() if config.teacher == "filterbank" else Edges()
    return at_rest(teacher)
