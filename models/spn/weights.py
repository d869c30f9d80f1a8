"""The authors' released checkpoints, name by name, to ours and back.

A released file is the state dict of their whole training module: generator and discriminator
under prefixes, and what no network runs: the frozen teacher, the frozen VGG, and two constants of
the adversarial loss, which are set aside. Three releases are known: SPN deterministic, SPN
probabilistic, and the predecessor SPL.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from infill.models.architecture import Released
from infill.models.released_tensors import State, require_exactly, shapes_of
from infill.models.spn.config import SPNConfig
from infill.models.spn.networks import Discriminator, Generator, deterministic_generator
from infill.models.spn.probabilistic import MatchingDiscriminator, ProbabilisticGenerator

GENERATOR_PREFIX = "generator.module."
DISCRIMINATOR_PREFIX = "discriminator.module."
ASIDE = ("tresnet_xL_hold.", "adversarial_loss.", "vgg_loss.")
"""Prefixes of the frozen teacher, of the adversarial loss's labels, and of the frozen VGG."""

Rules = tuple[tuple[str, str], ...]

SPADE: Rules = (
    (r"\.hidden\.", ".mlp_shared.0."),
    (r"\.gain\.", ".mlp_gamma."),
    (r"\.shift\.", ".mlp_beta."),
)
COMMON: Rules = (
    (r"^image_encoder\.conv(\d)\.", r"encoder_conv\1."),
    (r"^image_encoder\.norm(\d)\.hole_gain$", r"encoder_in\1.foreground_gamma"),
    (r"^image_encoder\.norm(\d)\.hole_shift$", r"encoder_in\1.foreground_beta"),
    (r"^image_encoder\.norm(\d)\.known_gain$", r"encoder_in\1.background_gamma"),
    (r"^image_encoder\.norm(\d)\.known_shift$", r"encoder_in\1.background_beta"),
    (r"^decoder\.blocks\.(\d+)\.spade1\.", r"middle.\1.conv_block.0."),
    (r"^decoder\.blocks\.(\d+)\.conv1\.", r"middle.\1.conv_block.3."),
    (r"^decoder\.blocks\.(\d+)\.spade2\.", r"middle.\1.conv_block.4."),
    (r"^decoder\.blocks\.(\d+)\.conv2\.", r"middle.\1.conv_block.7."),
    (r"^prior_learner\.encoder\.conv(\d)\.", r"encoder_conv\1_sm."),
    (r"^prior_learner\.trunk\.entry\.", "encoder_sm_out."),
    (r"^prior_learner\.trunk\.blocks\.(\d+)\.layers\.(\d+)\.", r"rdbs.\1.layers.\2.conv."),
    (r"^prior_learner\.trunk\.blocks\.(\d+)\.merge\.", r"rdbs.\1.lff."),
    (r"^prior_learner\.trunk\.gather\.", "gff.0."),
    (r"^prior_learner\.trunk\.smooth\.", "gff.1."),
    (r"^prior_learner\.blocks\.(\d+)\.", r"feature_recon.\1."),
    (r"^prior_learner\.rises\.0\.lift\.", "feature_recon_decoder.0."),
    (r"^prior_learner\.rises\.0\.merge\.", "feature_recon_decoder.3."),
    (r"^prior_learner\.rises\.1\.lift\.", "feature_recon_decoder.4."),
    (r"^prior_learner\.rises\.1\.merge\.", "feature_recon_decoder.7."),
    (r"^(feature_recon.*)\.conv1\.", r"\1.conv_block.1."),
    (r"^(feature_recon.*)\.conv2\.", r"\1.conv_block.4."),
    (r"^(feature_recon.*)\.shortcut\.", r"\1.shortcut.1."),
    (r"^heads\.0\.", "feature_mapping."),
    (r"^heads\.1\.", "feature_mapping_128."),
    (r"^heads\.2\.", "feature_mapping_256."),
    *SPADE,
)
RISING: Rules = (
    (r"^decoder\.rises\.0\.", "decoder.1."),
    (r"^decoder\.rises\.1\.", "decoder.3."),
    (r"^(decoder\.\d)\.spade1\.", r"\1.conv_block.0."),
    (r"^(decoder\.\d)\.conv1\.", r"\1.conv_block.2."),
    (r"^(decoder\.\d)\.spade2\.", r"\1.conv_block.3."),
    (r"^(decoder\.\d)\.conv2\.", r"\1.conv_block.5."),
    (r"^(decoder\.\d)\.shortcut_conv\.", r"\1.conv_s."),
    (r"^(decoder\.\d)\.shortcut_spade\.", r"\1.SPADE_s."),
    (r"^out\.", "decoder.6."),
)
LATENT: Rules = (
    (r"^prior_learner\.latent_encoder\.conv1\.", "encoder_z.0."),
    (r"^prior_learner\.latent_encoder\.conv2\.", "encoder_z.2."),
    (r"^prior_learner\.latent_encoder\.conv3\.", "encoder_z.4."),
    (r"^prior_learner\.latent_encoder\.mean\.", "mu."),
    (r"^prior_learner\.latent_encoder\.deviation\.", "sigma."),
    (r"^prior_learner\.latent_decoder\.conv1\.", "decoder_z.0."),
    (r"^prior_learner\.latent_decoder\.conv2\.", "decoder_z.3."),
    (r"^prior_learner\.latent_decoder\.conv3\.", "decoder_z.6."),
)
PLAIN: Rules = (
    (r"^decoder\.plain_rises\.0\.lift\.", "decoder.0."),
    (r"^decoder\.plain_rises\.0\.norm\.", "decoder.2.sa."),
    (r"^decoder\.plain_rises\.1\.lift\.", "decoder.4."),
    (r"^decoder\.plain_rises\.1\.norm\.", "decoder.6.sa."),
    (r"\.sa\.attention\.", ".sa.conv1."),
    (r"\.sa\.gain\.", ".sa.gamma_conv."),
    (r"\.sa\.shift\.", ".sa.beta_conv."),
    (r"^out\.", "decoder.9."),
)
SPECTRAL: Rules = (
    (r"^convs\.(\d)\.", r"conv\1.0."),
    (r"\.weight$", ".weight_orig"),
    (r"\.u$", ".weight_u"),
    (r"\.v$", ".weight_v"),
)


def from_released(released: Mapping[str, Tensor]) -> tuple[State, State]:
    """Turn a released checkpoint into our generator's and discriminator's state dicts.

    Args:
        released: the whole checkpoint, with or without the prefixes of data parallelism.

    Raises:
        ValueError: if a tensor is missing, misshapen or left over; it is named.
    """
    config = configuration_of(released)
    generator, discriminator, rest = _parts(released)
    if rest:
        raise ValueError(f"{len(rest)} tensors belong to no network of SPN, first {rest[0]}")
    networks = (generator_of(config), discriminator_of(config))
    return (
        _translated(generator, generator_names(config), shapes_of(networks[0]), "generator"),
        _translated(
            discriminator, discriminator_names(config), shapes_of(networks[1]), "discriminator"
        ),
    )


def read_release(released: Mapping[str, Tensor]) -> Released:
    """Return a released checkpoint as our networks and their configuration take it.

    Raises:
        ValueError: as :func:`from_released`.
    """
    generator, discriminator = from_released(released)
    return Released(
        config=configuration_of(released),
        states={"generator": generator, "discriminator": discriminator},
        aside={k: v for k, v in released.items() if k.startswith(ASIDE)},
    )


def write_release(released: Released) -> State:
    """Turn our state dicts into a checkpoint that the authors' code reads.

    Raises:
        ValueError: if the configuration was never released, or a tensor is missing, misshapen
            or left over; it is named.
    """
    config = released.config
    assert isinstance(config, SPNConfig)
    parts = (
        (GENERATOR_PREFIX, generator_names(config), generator_of(config)),
        (DISCRIMINATOR_PREFIX, discriminator_names(config), discriminator_of(config)),
    )
    file = dict(released.aside)
    for prefix, names, network in parts:
        role = prefix.partition(".")[0]
        state = released.states.get(role, {})
        own = _translated(state, {name: (name,) for name in names}, shapes_of(network), role)
        for name, theirs in names.items():
            file.update({prefix + key: own[name] for key in theirs})
    return file


def configuration_of(released: Mapping[str, Tensor]) -> SPNConfig:
    """Read off a released checkpoint which network it is, and how wide and deep.

    Raises:
        ValueError: if it has no generator of SPN.
    """
    generator, _, _ = _parts(released)
    try:
        channels = generator["encoder_conv1.weight"].shape[0]
    except KeyError as error:
        raise ValueError(
            "this is not a released checkpoint of SPN: no tensor generator.encoder_conv1.weight"
        ) from error
    config = SPNConfig.spl() if "decoder.2.sa.conv1.weight" in generator else SPNConfig()
    return replace(
        config,
        variant="probabilistic" if "mu.weight" in generator else "deterministic",
        channels=channels,
        num_blocks=_count(generator, r"middle\.(\d+)\."),
        num_dense_blocks=_count(generator, r"rdbs\.(\d+)\."),
        num_dense_layers=_count(generator, r"rdbs\.0\.layers\.(\d+)\."),
        num_prior_blocks=_count(generator, r"feature_recon\.(\d+)\."),
    )


def _count(names: Iterable[str], pattern: str) -> int:
    return len({found.group(1) for name in names if (found := re.match(pattern, name))})


def _parts(released: Mapping[str, Tensor]) -> tuple[State, State, list[str]]:
    """Split a checkpoint into generator, discriminator and the names of other tensors."""
    generator, discriminator, rest = {}, {}, []
    for key, tensor in released.items():
        name = key.replace(".module.", ".", 1)
        if name.startswith("generator."):
            generator[name.removeprefix("generator.")] = tensor
        elif name.startswith("discriminator."):
            discriminator[name.removeprefix("discriminator.")] = tensor
        elif not name.startswith(ASIDE):
            rest.append(key)
    return generator, discriminator, rest


def generator_of(config: SPNConfig) -> Generator:
    """Return the generator on the meta device: names and shapes without memory.

    Raises:
        ValueError: if this configuration was never released.
    """
    if config.fusion != "spade" or config.prior_levels == 2 or not config.has_heads:
        raise ValueError(
            "the authors released SPN with SPADE, 3 prior levels and a prior loss, and SPL with 1;"
            f" not fusion {config.fusion!r} with {config.prior_levels} levels"
            f" and prior_weight {config.prior_weight}"
        )
    with torch.device("meta"):
        if config.variant == "probabilistic":
            return ProbabilisticGenerator(config)
        return deterministic_generator(config)


def discriminator_of(config: SPNConfig) -> nn.Module:
    """Return the discriminator on the meta device."""
    with torch.device("meta"):
        if config.variant == "probabilistic":
            return MatchingDiscriminator(config.channels)
        return Discriminator(config.channels)


def generator_names(config: SPNConfig) -> dict[str, tuple[str, ...]]:
    """Return the released names of every tensor of our generator."""
    rules = (RISING if config.prior_levels == 3 else PLAIN) + COMMON
    if config.variant == "probabilistic":
        rules = LATENT + rules
    return {name: (_renamed(name, rules),) for name in generator_of(config).state_dict()}


def discriminator_names(config: SPNConfig) -> dict[str, tuple[str, ...]]:
    """Return the released names of every tensor of our discriminator."""
    return {
        name: _discriminator_names(name, config) for name in discriminator_of(config).state_dict()
    }


def _discriminator_names(name: str, config: SPNConfig) -> tuple[str, ...]:
    """Count from 1; the deterministic release keeps its first block under two names."""
    if config.variant == "probabilistic":
        if name.startswith(("first.", "last.")):
            number = "1" if name.startswith("first.") else "5"
            return (re.sub(r"^(first|last)\.", f"conv{number}.0.", name),)
        return (_renamed(_counted_from(name, 2), SPECTRAL),)
    theirs = _renamed(_counted_from(name, 1), SPECTRAL)
    if theirs.startswith("conv1."):
        return (theirs, theirs.replace("conv1.", "features.", 1))
    return (theirs,)


def _counted_from(name: str, first: int) -> str:
    return re.sub(r"^convs\.(\d)", lambda found: f"convs.{int(found.group(1)) + first}", name)


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _translated(
    state: Mapping[str, Tensor],
    names: Mapping[str, tuple[str, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    role: str,
) -> State:
    """Return ``state`` under the keys of ``names``, having used each of its tensors."""
    expected = {theirs: shapes[name] for name, all_of in names.items() for theirs in all_of}
    require_exactly(state, expected, role)
    for theirs in names.values():
        if any(not torch.equal(state[theirs[0]], state[other]) for other in theirs[1:]):
            raise ValueError(f"{role}: {' and '.join(theirs)} should be the same tensor")
    return {name: state[theirs[0]] for name, theirs in names.items()}
