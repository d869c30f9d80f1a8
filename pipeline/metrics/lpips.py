"""LPIPS (Zhang et al., CVPR 2018), version 0.1 on AlexNet.

It needs two public files: torchvision's AlexNet (``alexnet-owt-7be5be79.pth``) and the authors'
weights of its channels (``weights/v0.1/alex.pth``). Their names are kept.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYERS = {0: (3, 64, 11, 4, 2), 3: (64, 192, 5, 1, 2), 6: (192, 384, 3, 1, 1)}
LAYERS |= {8: (384, 256, 3, 1, 1), 10: (256, 256, 3, 1, 1)}
"""Convolutions by torchvision's index: channels in and out, side, stride, padding."""
POOLED_BEFORE = (3, 6)
"""Indices of the convolutions after a max pooling of 3, stride 2."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""The authors' normalization of images in [-1, 1]."""


class LPIPS(nn.Module):
    """The distance of two images, from five layers of AlexNet."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {str(index): nn.Conv2d(*numbers) for index, numbers in LAYERS.items()}
        )
        self.weights = nn.ParameterList(
            nn.Parameter(torch.zeros(out)) for _, out, *_ in LAYERS.values()
        )
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    shift: Tensor
    scale: Tensor

    def load(self, backbone: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        """Load the tensors of the two files.

        Raises:
            KeyError: if one is missing.
            RuntimeError: if one has another shape.
        """
        for index in LAYERS:
            link = self.features[str(index)]
            own = {part: backbone[f"features.{index}.{part}"] for part in ("weight", "bias")}
            link.load_state_dict(own)
        for number, weight in enumerate(self.weights):
            weight.data.copy_(linear[f"lin{number}.model.1.weight"].reshape(weight.shape))

    def forward(self, composite: Tensor, image: Tensor) -> Tensor:
        """Return the distance of uint8 [B, H, W, 3] images, [B]; 0 if they are equal."""
        distances = torch.zeros(len(image), device=self.shift.device)
        stages = zip(self.stages(composite), self.stages(image), self.weights, strict=True)
        for one, other, weight in stages:
            difference = (_unit_length(one) - _unit_length(other)).square()
            distances += torch.einsum("bchw,c->bhw", difference, weight).mean(dim=(1, 2))
        return distances

    def stages(self, composites: Tensor) -> list[Tensor]:
        """Return the maps after each convolution's ReLU."""
        maps = composites.permute(0, 3, 1, 2).float() / 127.5 - 1
        maps, found = (maps - self.shift) / self.scale, []
        for index in LAYERS:
            if index in POOLED_BEFORE:
                maps = functional.max_pool2d(maps, 3, stride=2)
            maps = functional.relu(self.features[str(index)](maps))
            found.append(maps)
        return found


def _unit_length(maps: Tensor) -> Tensor:
    """Scale every pixel's vector of channels to length 1."""
    return maps / (maps.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
