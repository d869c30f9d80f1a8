"""The promises of models/architecture.py, for each folder found under models/."""

import copy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from infill.models import architecture, padding
from infill.models.activation_checkpointing import recompute
from infill.models.architecture import Architecture, Batch, ModelConfig, Objective, fill
from infill.models.flops import kept_for_backward, step_flops
from infill.models.layers import channels_innermost
from infill.models.masking import paste

every_architecture = pytest.mark.parametrize("name", architecture.names())


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def tiny(name: str) -> tuple[Architecture, ModelConfig]:
    paper = architecture.load(name)
    return paper, paper.config.tiny()


def batch_of(config: ModelConfig, count: int = 2, step: int = 0) -> Batch:
    """Return noise with a square hole on one side, at the smallest round size that all accept."""
    side = max(64, config.size_multiple)
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
    mask = torch.zeros(count, 1, side, side)
    mask[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1
    return Batch(
        image=image,
        mask=mask,
        keys=tuple(f"sample{i}" for i in range(count)),
        mask_ids=tuple(f"mask{i}" for i in range(count)),
        step=step,
        seed=11,
    )


def ready_generator(paper: Architecture, config: ModelConfig) -> nn.Module:
    return paper.generator(config).eval()


def objective_of(paper: Architecture, config: ModelConfig) -> Objective:
    return paper.objective(config, lambda network: network)


def parameters_of(objective: Objective) -> dict[str, Tensor]:
    return {
        f"{role}.{name}": parameter
        for role, network in objective.networks.items()
        for name, parameter in network.named_parameters()
    }


@cache
def stepped(name: str) -> SimpleNamespace:
    """Take one step, for tests that only read what it leaves.

    Returns:
        The objective, its networks' states before the step, and the step's losses.
    """
    torch.manual_seed(0)
    paper, config = tiny(name)
    objective = objective_of(paper, config)
    before = {role: copy.deepcopy(net.state_dict()) for role, net in objective.networks.items()}
    losses = objective.step(batch_of(config))
    return SimpleNamespace(objective=objective, before=before, losses=losses)


@every_architecture
def test_folder_and_architecture_and_configuration_share_one_name(name: str) -> None:
    paper, config = tiny(name)
    assert paper.name == name == config.architecture
    assert isinstance(config, paper.config)


@every_architecture
@torch.no_grad()
def test_final_has_the_image_s_shape_and_range(name: str) -> None:
    paper, config = tiny(name)
    batch = batch_of(config)
    final = ready_generator(paper, config)(batch.image, batch.mask).final
    assert final.shape == batch.image.shape
    assert final.dtype == torch.float32
    assert final.abs().max() <= 1
    assert final.std() > 0


@every_architecture
@torch.no_grad()
def test_composite_keeps_known_pixels_bit_for_bit(name: str) -> None:
    paper, config = tiny(name)
    batch = batch_of(config)
    final = fill(ready_generator(paper, config), batch.image, batch.mask, config.size_multiple)
    composite = paste(final, batch.image, batch.mask)
    known = (batch.mask == 0).expand_as(composite)
    assert torch.equal(composite[known], batch.image[known])
    assert not torch.equal(composite[~known], batch.image[~known])


@every_architecture
@torch.no_grad()
def test_what_the_hole_hides_never_leaks(name: str) -> None:
    paper, config = tiny(name)
    batch = batch_of(config)
    generator = ready_generator(paper, config)
    predicted = generator(batch.image, batch.mask).final
    other = torch.where(batch.mask.bool(), torch.full_like(batch.image, 0.77), batch.image)
    assert torch.equal(predicted, generator(other, batch.mask).final)
    known_changed = torch.where(batch.mask.bool(), batch.image, -batch.image)
    assert not torch.equal(predicted, generator(known_changed, batch.mask).final)


@every_architecture
@torch.no_grad()
def test_the_mask_decides_what_is_predicted(name: str) -> None:
    paper, config = tiny(name)
    batch = batch_of(config)
    generator = ready_generator(paper, config)
    moved = generator(batch.image, batch.mask.roll(9, dims=3)).final
    assert not torch.equal(generator(batch.image, batch.mask).final, moved)


@every_architecture
@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other(name: str) -> None:
    paper, config = tiny(name)
    batch = batch_of(config)
    generator = ready_generator(paper, config)
    together = generator(batch.image, batch.mask).final
    apart = torch.cat(
        [generator(batch.image[i : i + 1], batch.mask[i : i + 1]).final for i in range(2)]
    )
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4)


@every_architecture
@torch.no_grad()
@pytest.mark.parametrize("kind", ["empty", "full", "one pixel", "thin line"])
def test_extreme_masks_give_finite_pictures(name: str, kind: str) -> None:
    paper, config = tiny(name)
    batch = batch_of(config, count=1)
    mask = torch.zeros_like(batch.mask)
    if kind == "full":
        mask[:] = 1
    if kind == "one pixel":
        mask[..., 17, 23] = 1
    if kind == "thin line":
        mask[..., 31] = 1
    assert ready_generator(paper, config)(batch.image, mask).final.isfinite().all()


@every_architecture
@torch.no_grad()
def test_odd_sizes_are_predicted_through_fill(name: str) -> None:
    paper, config = tiny(name)
    side = max(64, config.size_multiple)
    image = torch.rand(1, 3, side - 11, side + 7) * 2 - 1
    mask = torch.zeros(1, 1, side - 11, side + 7)
    mask[..., 10:30, 5:25] = 1
    generator = ready_generator(paper, config)
    predicted = fill(generator, image, mask, config.size_multiple)
    assert predicted.shape == image.shape
    hidden = torch.where(mask.bool(), torch.zeros_like(image), image)
    assert torch.equal(predicted, fill(generator, hidden, mask, config.size_multiple))


@every_architecture
@torch.no_grad()
def test_a_size_the_network_cannot_take_is_refused_with_a_sentence(name: str) -> None:
    paper, config = tiny(name)
    if config.size_multiple == 1:
        predicted = ready_generator(paper, config)(
            torch.zeros(1, 3, 67, 71), torch.zeros(1, 1, 67, 71)
        )
        assert predicted.final.shape == (1, 3, 67, 71)
        return
    height = 2 * max(64, config.size_multiple) + 1
    with pytest.raises(ValueError, match=rf"{config.size_multiple}.*{height}"):
        ready_generator(paper, config)(
            torch.zeros(1, 3, height, 128), torch.zeros(1, 1, height, 128)
        )


@every_architecture
def test_every_trained_parameter_gets_a_gradient(name: str) -> None:
    parameters = parameters_of(stepped(name).objective)
    assert [key for key, value in parameters.items() if value.grad is None] == []


@every_architecture
def test_one_step_changes_every_network_and_names_finite_losses(name: str) -> None:
    paper, one = architecture.load(name), stepped(name)
    objective, before, losses = one.objective, one.before, one.losses
    assert len(losses) >= min(2, len(paper.symbols))
    for term, value in losses.items():
        assert value.shape == (), term
        assert value.isfinite(), term
        assert not value.requires_grad, term
    assert "generator" in objective.networks
    for role, network in objective.networks.items():
        state = network.state_dict()
        assert any(not torch.equal(state[key], before[role][key]) for key in state), role
    assert bool(objective.accuracies) == (len(objective.networks) > 1)
    assert all(0 <= share <= 1 for share in objective.accuracies.values())


def losses_of_steps(name: str, device: str = "cpu") -> list[dict[str, Tensor]]:
    """Return the losses of two steps from the same weights, with channels innermost."""
    paper, config = tiny(name)
    torch.manual_seed(0)
    objective = paper.objective(config, lambda network: channels_innermost(network.to(device)))
    batches = [batch_of(config, step=step).to(device) for step in (0, 1)]
    found = [objective.step(batch) for batch in batches]
    return [{term: value.cpu() for term, value in losses.items()} for losses in found]


@every_architecture
def test_a_step_that_pads_as_a_gpu_does_has_the_same_losses(name: str, monkeypatch) -> None:
    expected = losses_of_steps(name)
    monkeypatch.setattr(padding, "_is_gathered", lambda features: True)
    torch.testing.assert_close(losses_of_steps(name), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@every_architecture
def test_a_step_on_a_gpu_has_the_losses_of_a_cpu(name: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    (first, second), (expected, _) = losses_of_steps(name, "cuda"), losses_of_steps(name)
    torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-4)
    assert all(value.isfinite() for value in second.values())


def kept_bytes(generator: nn.Module, batch: Batch) -> tuple[int, list[Tensor | None]]:
    """Return the tensors that a forward pass keeps for the backward pass, and the gradients."""
    prediction, size = kept_for_backward(generator, batch.image, batch.mask)
    prediction.final.square().mean().backward()
    return size, [parameter.grad for parameter in generator.parameters()]


@every_architecture
def test_recomputed_blocks_keep_less_and_change_nothing(name: str) -> None:
    paper, config = tiny(name)
    batch = batch_of(config)
    plain = paper.generator(config)
    lean = copy.deepcopy(plain)
    recompute(lean, paper.blocks)
    # A copy computes with its own weights, not with those of what it was copied from.
    lean = copy.deepcopy(lean)
    (much, wanted), (little, found) = kept_bytes(plain, batch), kept_bytes(lean, batch)
    # PEN-Net always computes its attention again, which leaves little.
    assert little < (0.9 if name == "pennet" else 0.7) * much
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or theirs is None or torch.equal(ours, theirs)
    for (key, ours), theirs in zip(
        lean.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), key


@every_architecture
def test_the_arithmetic_of_a_step_is_counted_with_its_penalties(name: str) -> None:
    """The generator's backward pass costs about twice its forward pass, besides all else."""
    paper, config = tiny(name)
    image, mask = (tensor.clone() for tensor in (batch_of(config).image, batch_of(config).mask))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ready_generator(paper, config)(image, mask)
    forward = counter.get_total_flops() / len(image)
    assert step_flops(config, image.shape[-1], len(image)) > 2 * forward > 0


@every_architecture
def test_every_loss_has_the_symbol_of_its_paper_and_no_symbol_is_left_over(name: str) -> None:
    paper, config = tiny(name)
    named = set(stepped(name).losses)
    assert named <= set(paper.symbols)
    assert len(set(paper.symbols.values())) == len(paper.symbols)
    folder = Path(architecture.__file__).parent / name
    objectives = list(folder.glob("*objective.py"))
    files = objectives or [folder / "architecture.py"]  # Which has the symbols, too.
    text = "".join(path.read_text() for path in files)
    least = 1 if objectives else 2
    assert all(text.count(f'"{term}"') >= least for term in paper.symbols)


@every_architecture
def test_a_step_depends_on_its_batch_and_on_no_global_state(name: str) -> None:
    paper, config = tiny(name)
    first, second = stepped(name), objective_of(paper, config)
    for role, network in second.networks.items():
        network.load_state_dict(first.before[role])
    torch.manual_seed(2)
    torch.rand(3)
    again = second.step(batch_of(config))
    assert {k: v.item() for k, v in first.losses.items()} == {k: v.item() for k, v in again.items()}
    found = parameters_of(second)
    for key, value in parameters_of(first.objective).items():
        assert torch.equal(value, found[key]), key


@every_architecture
def test_saved_and_restored_networks_predict_the_same_picture(name: str) -> None:
    paper, config = tiny(name)
    trained = stepped(name).objective.generator
    batch = batch_of(config)
    restored = ready_generator(paper, config)
    restored.load_state_dict(trained.state_dict())
    with torch.no_grad():
        predicted = trained.eval()(batch.image, batch.mask).final
        assert torch.equal(predicted, restored(batch.image, batch.mask).final)


@every_architecture
def test_the_networks_are_what_is_prepared_and_optimized(name: str) -> None:
    paper, config = tiny(name)
    prepared: list[nn.Module] = []

    def prepare(network: nn.Module) -> nn.Module:
        prepared.append(network)
        return network

    objective = paper.objective(config, prepare)
    assert {id(net) for net in prepared} == {id(net) for net in objective.networks.values()}
    optimized = {
        id(parameter)
        for optimizer in objective.optimizers.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert optimized == {id(parameter) for parameter in parameters_of(objective).values()}
    assert set(objective.optimizers) == set(objective.networks)


@every_architecture
@torch.no_grad()
def test_bfloat16_autocast_predicts_finite_pictures_near_the_full_ones(name: str) -> None:
    paper, config = tiny(name)
    batch = batch_of(config)
    generator = ready_generator(paper, config)
    full = generator(batch.image, batch.mask).final
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = generator(batch.image, batch.mask).final
    assert half.isfinite().all()
    assert (half.float() - full).abs().mean() < 0.1


@every_architecture
def test_a_step_under_bfloat16_autocast_is_finite(name: str) -> None:
    paper, config = tiny(name)
    objective = objective_of(paper, config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = objective.step(batch_of(config))
    assert all(value.isfinite() for value in losses.values())
    assert all(value.isfinite().all() for value in parameters_of(objective).values())


# PyTorch's own tracer instantiates autograd functions, and warns of it.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@every_architecture
def test_the_generator_compiles_in_one_graph_with_its_gradients_and_without(name: str) -> None:
    paper, config = tiny(name)
    batch = batch_of(config)
    generator = ready_generator(paper, config)
    torch.compiler.reset()
    compiled = torch.compile(generator, backend="eager", fullgraph=True)
    trained = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    finals = [network(batch.image, batch.mask).final for network in (generator, compiled)]
    torch.testing.assert_close(finals[1], finals[0])
    expected, gradients = (
        torch.autograd.grad(final.square().mean(), trained, allow_unused=True) for final in finals
    )
    assert any(gradient is not None and gradient.any() for gradient in expected)
    for found, wanted in zip(gradients, expected, strict=True):
        assert (found is None) == (wanted is None)
        if wanted is not None:  # sums in another order differ by what the largest term rounds to
            near = 1e-6 + 1e-5 * wanted.abs().max().item()
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=near)
    with torch.no_grad():
        torch.testing.assert_close(compiled(batch.image, batch.mask).final, finals[0])


@every_architecture
@torch.no_grad()
def test_the_generator_exports_as_one_program(name: str) -> None:
    paper, config = tiny(name)
    batch = batch_of(config)
    generator = ready_generator(paper, config)
    program = torch.export.export(generator, (batch.image, batch.mask))
    predicted = generator(batch.image, batch.mask).final
    torch.testing.assert_close(program.module()(batch.image, batch.mask).final, predicted)


def test_an_unknown_architecture_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="spn"):
        architecture.load("nonesuch")
