"""Co-Mod-GAN's generator, frozen: the teacher of MI-GAN's distillation.

Zhao et al., "Large Scale Image Completion via Co-Modulated Generative Adversarial Networks", ICLR
2021. Modules have the names of the public files, which the authors of MI-GAN converted. Its noise
is the constant one.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_rest
from infill.models.migan.config import DEEPEST_PX, MIGANConfig
from infill.models.migan.layers import EPSILON, activate, binomial
from infill.models.seeding import fill_normal, seeded
from infill.models.vgg import RANDOM
from infill.models.weight_files import sha256_of

NUM_MAPPINGS = 8
MAPPING_RATE = 0.01
"""Layers from the latent code to the styles, and what their weights are multiplied by."""
UNUSED = ("resample_filter", "w_avg")
"""Last parts of the names of tensors in the public files that no layer here reads."""


class Dense(nn.Module):
    """A linear layer whose weight is divided by the root of its inputs."""

    def __init__(self, wide: int, narrow: int, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(narrow, wide) / rate)
        self.bias = nn.Parameter(torch.full((narrow,), bias))
        self.rate = rate

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C] into [B, C']."""
        weight = self.weight * (self.rate / math.sqrt(self.weight.shape[1]))
        return functional.linear(features, weight, self.bias * self.rate)


class Conv(nn.Module):
    """A convolution whose weight is divided by the root of its inputs, and its activation."""

    def __init__(self, wide: int, narrow: int, kernel: int, halves: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(narrow, wide, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(narrow))
        self.halves = halves

    def forward(self, features: Tensor) -> Tensor:
        """Convolve [B, C, H, W]."""
        weight = self.weight / math.sqrt(self.weight[0].numel())
        if self.halves:
            # Filtered at the size of the input, one place beyond each edge of the kernel.
            features = filtered(features, 2)
            return activate(functional.conv2d(features, weight, self.bias, stride=2))
        padding = self.weight.shape[-1] // 2
        return activate(functional.conv2d(features, weight, self.bias, padding=padding))


def filtered(features: Tensor, padding: int) -> Tensor:
    """Apply the binomial filter to [B, C, H, W] with zeros around it."""
    kernel = binomial().to(features).expand(features.shape[1], 1, 4, 4)
    return functional.conv2d(features, kernel, padding=padding, groups=features.shape[1])


class StyledConv(nn.Module):
    """A convolution whose inputs are weighed by a style, and whose outputs keep their size."""

    noise_const: Tensor

    def __init__(self, wide: int, narrow: int, styles: int, side: int, doubles: bool) -> None:
        super().__init__()
        self.affine = Dense(styles, wide, bias=1.0)
        self.weight = nn.Parameter(torch.randn(narrow, wide, 3, 3))
        self.bias = nn.Parameter(torch.zeros(narrow))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(side, side))
        self.doubles = doubles

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Convolve [B, C, H, W] by styles [B, S]."""
        scales = self.affine(style)
        energy = scales.square() @ self.weight.square().sum(dim=(2, 3)).T
        features = features * scales[:, :, None, None]
        if self.doubles:
            spread = functional.conv_transpose2d(features, self.weight.transpose(0, 1), stride=2)
            features = 4.0 * filtered(spread, 1)
        else:
            features = functional.conv2d(features, self.weight, padding=1)
        features = features * torch.rsqrt(energy + EPSILON)[:, :, None, None]
        noise = self.noise_const * self.noise_strength
        return activate(features + noise + self.bias[:, None, None])


class Colours(nn.Module):
    """A point-wise convolution to colours whose inputs are weighed by a style."""

    def __init__(self, wide: int, styles: int) -> None:
        super().__init__()
        self.affine = Dense(styles, wide, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, wide, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, 3, H, W]."""
        scales = self.affine(style) / math.sqrt(features.shape[1])
        return functional.conv2d(features * scales[:, :, None, None], self.weight, self.bias)


class EncoderBlock(nn.Module):
    """Two convolutions, the second of half the size."""

    def __init__(self, wide: int, narrow: int, enters: bool) -> None:
        super().__init__()
        self.fromrgb = Conv(4, wide, 1) if enters else None
        self.conv0 = Conv(wide, wide, 3)
        self.conv1 = Conv(wide, narrow, 3, halves=True)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return [B, C', H / 2, W / 2] for the next block, and [B, C, H, W] for the decoder."""
        seen = self.conv0(features if self.fromrgb is None else self.fromrgb(features))
        return self.conv1(seen), seen


class EncoderEnd(nn.Module):
    """The deepest features, and a code of the whole image."""

    def __init__(self, width: int, code: int) -> None:
        super().__init__()
        self.conv = Conv(width, width, 3)
        self.fc = Dense(width * DEEPEST_PX**2, code)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the code [B, S] and the features [B, C, 4, 4]."""
        seen = self.conv(features)
        return activate(self.fc(seen.flatten(1))), seen


class DecoderStart(nn.Module):
    """From the code to the deepest maps."""

    def __init__(self, width: int, code: int, styles: int) -> None:
        super().__init__()
        self.fc = Dense(code, width * DEEPEST_PX**2)
        self.conv = StyledConv(width, width, styles, DEEPEST_PX, doubles=False)
        self.torgb = Colours(width, styles)

    def forward(self, code: Tensor, seen: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, C, 4, 4] and their colours."""
        features = activate(self.fc(code)).view_as(seen) + seen
        features = self.conv(features, style)
        return features, self.torgb(features, style)


class DecoderBlock(nn.Module):
    """Twice the size, the encoder's features, another convolution, and colours."""

    def __init__(self, wide: int, narrow: int, styles: int, side: int) -> None:
        super().__init__()
        self.conv0 = StyledConv(wide, narrow, styles, side, doubles=True)
        self.conv1 = StyledConv(narrow, narrow, styles, side, doubles=False)
        self.torgb = Colours(narrow, styles)

    def forward(self, features: Tensor, seen: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, C', 2H, 2W] and their colours."""
        features = self.conv1(self.conv0(features, style) + seen, style)
        return features, self.torgb(features, style)


class CoModGAN(nn.Module):
    """The generator: styles from a latent code and from the masked image."""

    def __init__(self, config: MIGANConfig) -> None:
        super().__init__()
        widths, latent = config.widths, config.channel_max
        code, styles = 2 * latent, 3 * latent
        self.side, self.latent = config.image_size_px, latent
        sides = [config.image_size_px >> level for level in range(config.num_halvings)]
        self.mapping = nn.ModuleDict(
            {f"fc{index}": Dense(latent, latent, MAPPING_RATE) for index in range(NUM_MAPPINGS)}
        )
        self.encoder, self.synthesis = nn.ModuleDict(), nn.ModuleDict()
        for side, wide, narrow in zip(sides, widths[:-1], widths[1:], strict=True):
            self.encoder[f"b{side}"] = EncoderBlock(wide, narrow, enters=side == self.side)
        self.encoder["b4"] = EncoderEnd(widths[-1], code)
        self.synthesis["b4"] = DecoderStart(widths[-1], code, styles)
        pairs = list(zip(widths[1:], widths[:-1], sides, strict=True))
        for wide, narrow, side in reversed(pairs):
            self.synthesis[f"b{side}"] = DecoderBlock(wide, narrow, styles, side)
        at_rest(self)

    def forward(self, masked: Tensor, latent: Tensor) -> tuple[Tensor, ...]:
        """Return the colours that each size adds, coarse to fine: [B, 3, h, w].

        Args:
            masked: as the generator of MI-GAN reads it, [B, 4, H, W] of the size of the weights.
            latent: normal noise, [B, L].

        Raises:
            ValueError: if the frame has another size.
        """
        if masked.shape[-2:] != (self.side, self.side):
            height, width = masked.shape[-2:]
            raise ValueError(
                f"the teacher is for frames of {self.side} px, not {height} x {width}: set "
                "--model.image-size-px to the side of the frames, or --model.distillation-weight 0"
            )
        with torch.autocast(masked.device.type, enabled=False):
            style = latent * torch.rsqrt(latent.square().mean(1, keepdim=True) + EPSILON)
            for layer in self.mapping.values():
                style = activate(layer(style))
            features, seen = masked, []
            for name in list(self.encoder)[:-1]:
                features, kept = self.encoder[name](features)
                seen.append(kept)
            features, deepest = self.encoder["b4"](features)
            style = torch.cat([style, features], dim=1)
            colours = []
            for block, kept in zip(self.synthesis.values(), [deepest, *seen[::-1]], strict=True):
                features, added = block(features, kept, style)
                colours.append(added)
        return tuple(colours)

    def random_latent(self, count: int, seed: int, like: Tensor) -> Tensor:
        """Return normal noise [count, L], the same on every device, as ``like`` is."""
        latent = torch.empty(count, self.latent, device=like.device, dtype=like.dtype)
        fill_normal(latent, 1.0, torch.Generator().manual_seed(seed))
        return latent


def load_teacher(config: MIGANConfig) -> CoModGAN:
    """Build the teacher with the public weights.

    Raises:
        ValueError: if there is no file, it is another one, or a tensor is missing or misshapen.
    """
    weights, sha256 = config.teacher_weights, config.teacher_sha256
    if weights == RANDOM:
        device = torch.get_default_device()
        if device.type == "meta":  # only counted
            return CoModGAN(config)
        with seeded(0), torch.device("cpu"):
            network = CoModGAN(config)
        return network if device.type == "cpu" else network.to(device)
    if weights is None:
        raise ValueError(
            "distillation needs teacher_weights, the path of Co-Mod-GAN's state dict for "
            f"{config.image_size_px} px; give {RANDOM!r} for a teacher nobody trained, or "
            "distillation_weight 0 to do without"
        )
    file = Path(weights).expanduser()
    if not file.is_file():
        raise ValueError(f"teacher_weights: there is no file {file}")
    if sha256 is not None and (found := sha256_of(file)) != sha256.lower():
        raise ValueError(f"{file} has the SHA-256 {found}, not {sha256}; get the file again")
    network = CoModGAN(config)
    load_strictly(network, torch.load(file, map_location="cpu", weights_only=True), file)
    return network


def load_strictly(network: CoModGAN, state: Mapping[str, Tensor], file: Path) -> None:
    """Load a state dict of the public layout, which also holds filters.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; the first is named.
    """
    expected = network.state_dict()
    wrong = [name for name in expected if name not in state]
    wrong += [n for n in expected if n in state and state[n].shape != expected[n].shape]
    wrong += [n for n in state if n not in expected and n.rpartition(".")[2] not in UNUSED]
    if wrong:
        raise ValueError(
            f"{file} is not Co-Mod-GAN for {network.side} px: {len(wrong)} tensors are missing, "
            f"misshapen or left over, first {wrong[0]}"
        )
    network.load_state_dict({name: state[name] for name in expected})
