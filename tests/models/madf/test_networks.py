import copy
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from infill.models.architecture import fill
from infill.models.madf.architecture import ARCHITECTURE
from infill.models.madf.config import MADFConfig
from infill.models.madf.networks import Generator, PointwiseNorm, UnconditionedNorm

Example = Callable[..., tuple[Tensor, Tensor]]
VARIANTS = {
    **{f"K{count}": MADFConfig(num_refinements=count) for count in range(4)},
    **{
        f"K{count} without PN": MADFConfig(num_refinements=count, refinement_norm="batch")
        for count in (1, 2)
    },
    "GConv": MADFConfig(encoder="gated", num_refinements=0),
    "PConv": MADFConfig(encoder="partial", num_refinements=0),
}
TINY = {
    name: replace(
        MADFConfig.tiny(),
        encoder=config.encoder,
        num_refinements=config.num_refinements,
        refinement_norm=config.refinement_norm,
    )
    for name, config in VARIANTS.items()
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)
one_of_each_kind = pytest.mark.parametrize("variant", ["K2", "K2 without PN", "GConv", "PConv"])
beside_the_default = pytest.mark.parametrize("variant", ["K2 without PN", "GConv", "PConv"])
"""The default is compiled and exported among all architectures."""
MEBIBYTE = 2**20


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(config: MADFConfig) -> nn.Module:
    with torch.device("meta"):
        return ARCHITECTURE.generator(config)


def multiply_accumulates(config: MADFConfig) -> float:
    """Return 10^9 multiply-accumulates of one prediction at 256 x 256."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ARCHITECTURE.generator(config).eval()(*frame(256))
    return counter.get_total_flops() / 2e9


def frame(side: int, samples: int = 1) -> tuple[Tensor, Tensor]:
    return (
        torch.empty(samples, 3, side, side, device="meta"),
        torch.empty(samples, 1, side, side, device="meta"),
    )


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [
        (VARIANTS["K0"], 40_743_065, 96),
        (VARIANTS["K1"], 62_942_135, 146),
        (VARIANTS["K2"], 85_141_214, 196),
        (VARIANTS["K3"], 107_340_302, 246),
        (VARIANTS["K1 without PN"], 56_084_663, 122),
        (VARIANTS["K2 without PN"], 71_426_270, 148),
        (MADFConfig(levels=6), 61_720_014, 166),
        (MADFConfig(levels=8), 108_562_414, 226),
    ],
)
def test_generators_have_the_published_number_of_parameters(
    config: MADFConfig, parameters: int, tensors: int
) -> None:
    generator = on_meta(replace(config, dead_norms=True))
    assert count(generator) == parameters
    assert len(list(generator.parameters())) == tensors
    without = on_meta(config)
    dead = 2 * sum(config.filter_widths)
    assert dead == 1_248 + 256 * (config.levels - 7)
    assert count(without) == parameters - dead
    assert len(list(without.parameters())) == tensors - 2 * config.levels


@pytest.mark.parametrize(("variant", "parameters"), [("GConv", 48_607_865), ("PConv", 25_779_796)])
def test_other_encoders_have_the_derived_number_of_parameters(
    variant: str, parameters: int
) -> None:
    assert count(on_meta(VARIANTS[variant])) == parameters


@pytest.mark.parametrize(
    ("num_refinements", "floats", "counters"),
    [(0, 5_216, 13), (1, 9_184, 19), (2, 13_152, 25), (3, 17_120, 31)],
)
def test_saved_statistics_are_as_many_as_published(
    num_refinements: int, floats: int, counters: int
) -> None:
    state = on_meta(MADFConfig(num_refinements=num_refinements, dead_norms=True)).state_dict()
    statistics = [value.numel() for name, value in state.items() if ".running_" in name]
    assert sum(statistics) == floats
    assert sum(name.endswith("num_batches_tracked") for name in state) == counters
    assert not any("colours" in name for name in state)


def test_every_part_has_the_number_of_parameters_of_the_tables() -> None:
    generator = on_meta(MADFConfig(num_refinements=3))
    encoder = generator.encoder
    filters = [count(m) + count(f) for m, f in zip(encoder.masks, encoder.filters, strict=True)]
    assert filters == [82_336, 224_016, 315_664, 1_255_696, *[2_509_072] * 3]
    assert [count(lift) for lift in encoder.lifts] == [1_088, 4_224, 16_640, *[66_048] * 4]
    recovery = [(count(b.rise) + count(b.norm), count(b.merge)) for b in generator.recovery]
    assert recovery == [
        *[(4_195_840, 4_719_104)] * 3,
        (2_097_920, 1_179_904),
        (524_672, 295_040),
        (131_264, 73_792),
    ]
    assert count(generator.recovery_head.rise) == 3_075
    assert count(generator.recovery_head.merge) == 246
    for decoder, head in zip(generator.refinements, (222, 231, 240), strict=True):
        blocks = [*[5_965_440] * 3, 2_982_784, 967_168, 352_576]
        assert [count(block) for block in decoder.blocks] == blocks
        assert count(decoder.head) == head


def test_tensors_have_the_published_shapes() -> None:
    shapes = Counter(tuple(p.shape) for p in on_meta(MADFConfig()).parameters())
    for outputs, times in {4_704: 1, 12_800: 1, 18_432: 1, 73_728: 1, 147_456: 3}.items():
        assert shapes[(outputs, 16, 1, 1)] == times
        assert shapes[(outputs,)] == times
    assert shapes[(3, 73, 1, 1)] == shapes[(3, 76, 1, 1)] == shapes[(3, 9, 3, 3)] == 1


@pytest.mark.parametrize(
    ("variant", "published"),
    [
        ("K0", 10.4328),
        ("K1", 19.3464),
        ("K2", 28.2606),
        ("K3", 37.1754),
        ("K1 without PN", 12.4101),
        ("K2 without PN", 14.3880),
        ("PConv", 2.332 + 7.140),
    ],
)
def test_arithmetic_is_the_published_less_what_heads_save(variant: str, published: float) -> None:
    # Heads turn 64 features into colours before they are doubled: 3/4 of 64 * 3 * 256^2 saved.
    saved = VARIANTS[variant].num_refinements * 0.75 * 64 * 3 * 256**2 / 1e9
    assert multiply_accumulates(VARIANTS[variant]) + saved == pytest.approx(published, abs=6e-4)


def test_two_refinements_cost_what_the_paper_counts() -> None:
    total = 0
    for decoder in on_meta(MADFConfig()).refinements:
        side = 4
        for block in decoder.blocks:
            total += as_the_paper_counts(block, side**2)
            side *= 2
        # A biased output counts 1 more than its inputs.
        total += decoder.head.out_channels * (decoder.head.in_channels + 1) * 256**2
    assert total / 1e9 == pytest.approx(51.77 - 22.13, abs=0.01)


def as_the_paper_counts(block: nn.Module, positions: int) -> int:
    """Count 1 per product, 1 per bias, 2 per normalised and 1 per activated value.

    Transposed convolutions count 16 taps at each position of their output, which is 4 too many.
    """
    channels, norm = block.rise.out_channels, block.norm
    rise = channels * (16 * block.rise.in_channels + 1)
    hidden = norm.hidden.out_channels * (9 * norm.hidden.in_channels + 2)
    gain_and_shift = 2 * channels * (9 * norm.gain.in_channels + 1)
    return positions * (rise + 2 * channels + hidden + gain_and_shift + channels)


@one_of_each_kind
@pytest.mark.parametrize("size", [(128, 128), (128, 256), (256, 256), (384, 256)])
def test_every_stage_has_the_image_s_size(variant: str, size: tuple[int, int]) -> None:
    config = VARIANTS[variant]
    image, mask = torch.empty(2, 3, *size, device="meta"), torch.empty(2, 1, *size, device="meta")
    prediction = on_meta(config)(image, mask)
    assert [tuple(o.shape) for o in prediction.outputs] == [(2, 3, *size)] * (
        config.num_refinements + 1
    )
    assert prediction.final.shape == image.shape


@one_of_each_kind
@pytest.mark.parametrize("size", [(200, 200), (250, 333), (97, 61)])
@torch.no_grad()
def test_any_size_is_predicted_through_fill(variant: str, size: tuple[int, int]) -> None:
    config = TINY[variant]
    generator = ARCHITECTURE.generator(config).eval()
    image, mask = torch.rand(1, 3, *size) * 2 - 1, torch.zeros(1, 1, *size)
    mask[..., 20:50, 10:40] = 1
    predicted = fill(generator, image, mask, config.size_multiple)
    assert predicted.shape == image.shape
    assert predicted.isfinite().all()


@pytest.mark.parametrize("size", [(192, 256), (256, 200)])
def test_sizes_that_seven_halvings_cannot_take_are_refused(size: tuple[int, int]) -> None:
    image, mask = torch.empty(1, 3, *size, device="meta"), torch.empty(1, 1, *size, device="meta")
    with pytest.raises(ValueError, match=rf"128 px, not {size[0]} x {size[1]}"):
        on_meta(MADFConfig())(image, mask)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("K")])
def test_fast_generator_equals_the_plain_one_in_value_and_gradient(
    reference: ModuleType, example: Example, variant: str
) -> None:
    generator = ARCHITECTURE.generator(TINY[variant]).double()
    slow = reference.naive(generator)
    image, mask = (part.double() for part in example(64, 96))
    outputs, expected = (network(image, mask).outputs for network in (generator, slow))
    for output, picture in zip(outputs, expected, strict=True):
        assert (output - picture).abs().max() < 1e-9 * picture.abs().max()
    for predicted in (outputs, expected):
        torch.stack([picture.square().mean() for picture in predicted]).sum().backward()
    for (name, fast), plain in zip(generator.named_parameters(), slow.parameters(), strict=True):
        scale = plain.grad.abs().max().clamp_min(1e-6)
        assert (fast.grad - plain.grad).abs().max() < 1e-8 * scale, name


def test_known_and_hidden_are_converted_at_the_door(example: Example) -> None:
    generator = Generator(MADFConfig.tiny()).double().eval()
    image, mask = (part.double() for part in example(64, 64))
    seen = []
    generator.encoder.register_forward_hook(lambda _, given, __: seen.append(given))
    generator(image, mask)
    entry, known = seen[0]
    mean = torch.tensor([0.485, 0.456, 0.406]).double().view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).double().view(1, 3, 1, 1)
    expected = ((image + 1) / 2 - mean) / deviation * (1 - mask)
    torch.testing.assert_close(entry[:, :3], expected, rtol=0, atol=1e-6)
    assert torch.equal(known, 1 - mask)
    assert torch.equal(entry[:, 3:], known.expand(-1, 3, -1, -1))


@torch.no_grad()
def test_final_is_the_last_output_in_the_image_s_range(example: Example) -> None:
    generator = Generator(MADFConfig.tiny()).eval()
    final, outputs = generator(*example(64, 64))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    expected = (2 * (outputs[-1] * deviation + mean) - 1).clamp(-1, 1)
    torch.testing.assert_close(final, expected, rtol=0, atol=1e-6)
    restored = generator.colours.undone(generator.colours(final))
    torch.testing.assert_close(restored, final, rtol=0, atol=1e-6)


@every_variant
@torch.no_grad()
def test_not_even_a_not_a_number_leaks_from_the_hole(example: Example, variant: str) -> None:
    generator = ARCHITECTURE.generator(TINY[variant]).eval()
    image, mask = example(64, 64)
    predicted = generator(image, mask)
    poisoned = generator(image.masked_fill(mask.bool(), float("nan")), mask)
    for output, other in zip(predicted.outputs, poisoned.outputs, strict=True):
        assert torch.equal(output, other)


@every_variant
@torch.no_grad()
def test_hole_and_known_are_not_alike(example: Example, variant: str) -> None:
    generator = ARCHITECTURE.generator(TINY[variant]).eval()
    image, mask = example(64, 64)
    predicted = generator(image, mask).outputs[-1]
    assert not torch.allclose(predicted, generator(image, 1 - mask).outputs[-1], atol=1e-3)
    all_known = generator(image, torch.zeros_like(mask)).outputs[-1]
    assert not torch.allclose(predicted, all_known, atol=1e-3)


def test_pointwise_norm_without_convolutions_is_batch_norm() -> None:
    norm = PointwiseNorm(3, 5, 7)
    assert [name for name, _ in norm.norm.named_parameters()] == []
    for parameter in norm.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(norm.gain.bias, 0.75)
    nn.init.constant_(norm.shift.bias, -2.0)
    features, condition = torch.randn(2, 3, 6, 4) * 3 + 1, torch.randn(2, 5, 6, 4)
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0, keepdim=True)
    expected = 1.75 * (features - mean) / (variance + 1e-5).sqrt() - 2.0
    torch.testing.assert_close(norm(features, condition), expected)
    norm.eval()
    running = norm.norm.running_mean.view(1, 3, 1, 1), norm.norm.running_var.view(1, 3, 1, 1)
    expected = 1.75 * (features - running[0]) / (running[1] + 1e-5).sqrt() - 2.0
    torch.testing.assert_close(norm(features, condition), expected)


def test_pointwise_norm_equals_the_printed_one(reference: ModuleType) -> None:
    norm = PointwiseNorm(3, 5, 7).double()
    features = torch.randn(2, 3, 6, 4).double().requires_grad_()
    condition = torch.randn(2, 5, 6, 4).double().requires_grad_()
    results = [
        f(features, condition) for f in (norm, lambda *p: reference.norm_as_printed(norm, *p))
    ]
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)
    leaves = [features, condition, *norm.parameters()]
    grads = [torch.autograd.grad(out.square().sum(), leaves) for out in results]
    for fast, plain in zip(*grads, strict=True):
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-11)


def test_refinement_feels_the_decoder_before_it_only_with_pointwise_norm() -> None:
    condition = torch.randn(1, 4, 6, 6, requires_grad=True)
    PointwiseNorm(4, 4, 3)(torch.randn(1, 4, 6, 6), condition).square().sum().backward()
    assert condition.grad.abs().sum() > 0
    features = torch.randn(1, 4, 6, 6)
    norm = UnconditionedNorm(4)
    assert torch.equal(norm(features, condition), norm(features, -condition))


@torch.no_grad()
def test_samples_are_apart_in_evaluation_and_together_in_training(example: Example) -> None:
    generator = Generator(MADFConfig.tiny())
    assert generator.eval() is generator
    image, mask = example(64, 64)
    together = generator(image, mask).outputs[-1][:1]
    alone = generator(image[:1], mask[:1]).outputs[-1]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * alone.abs().max().item())
    assert generator.train() is generator
    together = generator(image, mask).outputs[-1][:1]
    assert not torch.allclose(together, generator(image[:1], mask[:1]).outputs[-1], atol=1e-3)


@every_variant
def test_every_parameter_has_a_gradient_that_is_not_zero(example: Example, variant: str) -> None:
    generator = ARCHITECTURE.generator(TINY[variant])
    outputs = generator(*example(64, 64)).outputs
    torch.stack([output.abs().mean() for output in outputs]).sum().backward()
    # A bias before a norm that removes the mean changes nothing.
    idle = [
        f"{name}.rise.bias" for name, part in generator.named_modules() if hasattr(part, "norm")
    ]
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert name in idle or parameter.grad.abs().max() > 0, name


def test_first_picture_owes_nothing_to_refinements(example: Example) -> None:
    generator = Generator(MADFConfig.tiny())
    generator(*example(64, 64)).outputs[0].abs().mean().backward()
    for name, parameter in generator.named_parameters():
        assert (parameter.grad is None) == name.startswith("refinements."), name


def test_dead_norms_neither_predict_nor_learn(example: Example) -> None:
    generator = Generator(replace(MADFConfig.tiny(), dead_norms=True)).eval()
    image, mask = example(64, 64)
    before = generator(image, mask).final
    for parameter in generator.encoder.dead_norms.parameters():
        assert not parameter.requires_grad
        nn.init.constant_(parameter, 9.0)
    assert torch.equal(before, generator(image, mask).final)


@every_variant
@torch.no_grad()
def test_channels_last_predicts_the_same(example: Example, variant: str) -> None:
    generator = ARCHITECTURE.generator(TINY[variant]).double().eval()
    image, mask = (part.double() for part in example(64, 96))
    expected = generator(image, mask).outputs[-1]
    generator = generator.to(memory_format=torch.channels_last)
    outputs = generator(image.to(memory_format=torch.channels_last), mask).outputs
    assert (outputs[-1] - expected).abs().max() < 1e-9 * expected.abs().max()


@beside_the_default
def test_generator_compiles_without_graph_breaks(example: Example, variant: str) -> None:
    generator = ARCHITECTURE.generator(TINY[variant])
    compiled = torch.compile(copy.deepcopy(generator), fullgraph=True, backend="eager")
    image, mask = example(64, 64)
    expected, outputs = generator(image, mask), compiled(image, mask)
    torch.testing.assert_close(outputs.final, expected.final, rtol=1e-4, atol=1e-5)
    assert len(outputs.outputs) == len(expected.outputs)


@beside_the_default
@torch.no_grad()
def test_generator_exports(example: Example, variant: str) -> None:
    generator = ARCHITECTURE.generator(TINY[variant]).eval()
    image, mask = example(64, 64)
    program = torch.export.export(generator, (image, mask))
    predicted = program.module()(image, mask).final
    torch.testing.assert_close(predicted, generator(image, mask).final, rtol=1e-4, atol=1e-5)


@every_variant
@torch.no_grad()
def test_pictures_are_predicted_in_full_precision_under_autocast(
    example: Example, variant: str
) -> None:
    generator = ARCHITECTURE.generator(TINY[variant]).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = generator(*example(64, 64))
    for picture in (prediction.final, *prediction.outputs):
        assert picture.dtype == torch.float32
    # Some of its values need more digits than bfloat16 has.
    last = prediction.outputs[-1]
    assert (last.bfloat16().float() != last).float().mean() > 0.9


class LiveMemory(TorchDispatchMode):
    """Counts bytes of the tensors alive, made since it was entered."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.born(tensor.untyped_storage())
        return result

    def born(self, storage: torch.UntypedStorage) -> None:
        seen = self.known.get(storage._cdata)
        if seen is None or seen() is None:
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            self.known[storage._cdata] = weakref.ref(storage)
            weakref.finalize(storage, self.died, size)

    def died(self, size: int) -> None:
        self.now -= size


def peak_bytes(generator: nn.Module, samples: int, learn: bool) -> int:
    """Return the most bytes alive at once beside parameters; gradients of those count."""
    with LiveMemory() as memory, torch.set_grad_enabled(learn):
        outputs = generator(*frame(256, samples)).outputs
        if learn:
            torch.stack([output.abs().mean() for output in outputs]).sum().backward()
    return memory.peak


def test_a_training_step_of_one_image_needs_less_than_600_megabytes() -> None:
    assert peak_bytes(on_meta(MADFConfig()), 1, learn=True) < 450 * MEBIBYTE


def test_memory_is_less_than_half_of_the_plain_form_s(reference: ModuleType) -> None:
    generator = on_meta(MADFConfig())
    plain = reference.naive(generator)
    assert peak_bytes(generator, 4, learn=True) < 0.5 * peak_bytes(plain, 4, learn=True)
    assert peak_bytes(generator, 1, learn=False) < 0.2 * peak_bytes(plain, 1, learn=False)
