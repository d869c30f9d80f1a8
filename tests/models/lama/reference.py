"""LaMa as its authors laid it out, run from tensors under their names.

Its Fourier transforms are the matrices of their definition, in float64.
"""

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def conv(state: State, name: str, features: Tensor, stride: int = 1) -> Tensor:
    """Convolve with a reflected border as wide as the kernel reaches."""
    weight = state[f"{name}.weight"]
    reach = weight.shape[2] // 2
    if reach:
        features = functional.pad(features, [reach] * 4, mode="reflect")
    return functional.conv2d(features, weight, state.get(f"{name}.bias"), stride)


def norm(state: State, name: str, features: Tensor) -> Tensor:
    """Normalise by the running statistics, and activate."""
    shape = (1, -1, 1, 1)
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scaled = (features - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
    return torch.relu(
        scaled * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)
    )


def fourier_unit(state: State, name: str, features: Tensor) -> Tensor:
    """Transform by the definition of the discrete Fourier transform, one matrix per axis."""
    height, width = features.shape[2:]
    rows, columns = dft(height), dft(width)
    spectrum = rows @ features.to(torch.complex128) @ columns.mT
    spectrum = spectrum[..., : width // 2 + 1]
    parts = torch.stack([spectrum.real, spectrum.imag], dim=2).flatten(1, 2)
    parts = norm(state, f"{name}.bn", conv(state, f"{name}.conv_layer", parts))
    mixed = torch.complex(parts[:, 0::2], parts[:, 1::2])
    # The other half of a real picture's spectrum is the conjugate, both axes mirrored.
    mirrored = mixed[..., 1 : (width + 1) // 2].flip(3).conj()
    mirrored = torch.cat([mirrored[:, :, :1], mirrored[:, :, 1:].flip(2)], dim=2)
    edges = [0] + ([width // 2] if width % 2 == 0 else [])
    whole = mixed.clone()
    for edge in edges:
        column = mixed[..., edge]
        turned = torch.cat([column[:, :, :1], column[:, :, 1:].flip(2)], dim=2).conj()
        whole[..., edge] = (column + turned) / 2
    full = torch.cat([whole, mirrored], dim=3)
    return (rows.conj() @ full @ columns.conj().mT).real


def dft(size: int) -> Tensor:
    """Return the orthonormal matrix of the transform."""
    steps = torch.arange(size, dtype=torch.float64)
    angles = -2 * torch.pi * steps[:, None] * steps / size
    return torch.polar(torch.full_like(angles, size**-0.5), angles)


def ffc(state: State, name: str, local: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
    inner = f"{name}.ffc.convg2g"
    entered = norm(state, f"{inner}.conv1.1", conv(state, f"{inner}.conv1.0", wide))
    far = conv(state, f"{inner}.conv2", entered + fourier_unit(state, f"{inner}.fu", entered))
    far = far + conv(state, f"{name}.ffc.convl2g", local)
    near = conv(state, f"{name}.ffc.convl2l", local) + conv(state, f"{name}.ffc.convg2l", wide)
    return norm(state, f"{name}.bn_l", near), norm(state, f"{name}.bn_g", far)


def released_forward(released: State, image: Tensor, mask: Tensor) -> Tensor:
    """Run the released generator in evaluation: [B, 3, H, W] in [0, 1] from an image in [0, 1]."""
    prefix = "generator.model."
    state = {k.removeprefix(prefix): v for k, v in released.items() if k.startswith(prefix)}
    blocks = 0
    while f"{5 + blocks}.conv1.bn_l.weight" in state:
        blocks += 1
    features = torch.cat([image * (1 - mask), mask], dim=1)
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        features = norm(
            state, f"{number}.bn_l", conv(state, f"{number}.ffc.convl2l", features, stride)
        )
    local = norm(state, "4.bn_l", conv(state, "4.ffc.convl2l", features, 2))
    wide = norm(state, "4.bn_g", conv(state, "4.ffc.convl2g", features, 2))
    for number in range(5, 5 + blocks):
        near, far = ffc(state, f"{number}.conv1", local, wide)
        near, far = ffc(state, f"{number}.conv2", near, far)
        local, wide = local + near, wide + far
    features = torch.cat([local, wide], dim=1)
    for number in range(6 + blocks, 15 + blocks, 3):
        features = functional.conv_transpose2d(
            features,
            state[f"{number}.weight"],
            state[f"{number}.bias"],
            stride=2,
            padding=1,
            output_padding=1,
        )
        features = norm(state, f"{number + 1}", features)
    return torch.sigmoid(conv(state, f"{16 + blocks}", features))
