"""How losses become updates: parts of a batch, norms, clipping."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from infill.models import architecture
from infill.models.architecture import Batch, Objective, Updating
from infill.models.flops import without_files


class Line(Objective):
    """One network of one weight, whose loss is the mean of image times weight."""

    def __init__(self) -> None:
        network = nn.Linear(1, 1, bias=False)
        nn.init.ones_(network.weight)
        self.networks = {"generator": network}
        self.optimizers = {"generator": torch.optim.SGD(network.parameters(), lr=0.5)}
        self.seeds: list[int] = []

    def step(self, batch: Batch) -> dict[str, Tensor]:
        self.seeds.append(batch.seed)
        loss = (batch.image.mean() * self.generator.weight).sum()
        self.update("generator", {"one": 2 * loss, "other": loss})
        return {"one": 2 * loss.detach(), "other": loss.detach()}


def batch_of(*values: float, seed: int = 5) -> Batch:
    image = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    names = tuple(str(value) for value in values)
    return Batch(image=image, mask=image[:, :1], keys=names, mask_ids=names, seed=seed)


def test_an_update_steps_down_the_sum_and_forgets_old_gradients() -> None:
    objective = Line()
    objective.generator.weight.grad = torch.full((1, 1), 99.0)
    objective.step_with_accumulation(batch_of(1.0, 3.0))
    assert objective.generator.weight.item() == 1 - 0.5 * 3 * 2
    assert objective.gradient_norms["generator"].item() == 6


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_make_the_update_of_the_whole_batch(parts: int) -> None:
    objective = Line()
    objective.updating = Updating(parts=parts)
    losses = objective.step_with_accumulation(batch_of(1.0, 2.0, 4.0, 9.0))
    assert objective.generator.weight.item() == pytest.approx(1 - 0.5 * 3 * 4)
    assert losses["one"].item() == pytest.approx(2 * 4.0)
    assert losses["other"].item() == pytest.approx(4.0)
    assert objective.seeds == [5 + part for part in range(parts)]
    objective.step_with_accumulation(batch_of(0.0, 0.0, 0.0, 0.0))
    assert objective.generator.weight.item() == pytest.approx(1 - 0.5 * 3 * 4)


def test_share_of_right_verdicts_counts_both_sides_alike() -> None:
    objective = Line()
    real, fake = torch.tensor([1.0, -1.0, 2.0]), torch.tensor([[-1.0], [3.0]])
    objective.log_accuracy("discriminator", real, fake)
    assert objective.accuracies["discriminator"].item() == pytest.approx((2 / 3 + 1 / 2) / 2)
    objective.log_accuracy("discriminator", real, fake, between=2.5)
    assert objective.accuracies["discriminator"].item() == pytest.approx((0 + 1 / 2) / 2)


def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    objective = Line()
    objective.updating = Updating(parts=2)
    with pytest.raises(ValueError, match="3 samples cannot be cut into 2 equal parts"):
        objective.step_with_accumulation(batch_of(1.0, 2.0, 3.0))


def test_an_augmentation_that_changes_one_of_the_shapes_is_refused() -> None:
    batch = batch_of(1.0, 2.0)
    with pytest.raises(
        ValueError, match=r"mask of a batch must be \[B, 1, H, W\], .* \[2, 1, 8, 8\]"
    ):
        replace(batch, image=batch.image[..., ::2])
    with pytest.raises(ValueError, match=r"labels of a batch .* \[2, 3, 8, 4\] beside"):
        replace(batch, labels=batch.image[..., ::2])
    with pytest.raises(ValueError, match=r"image of a batch must be \[B, 3, H, W\]"):
        replace(batch, image=batch.image.permute(0, 2, 3, 1))


def test_gradients_are_scaled_down_to_the_greatest_norm_and_never_up() -> None:
    objective = Line()
    objective.updating = Updating(max_gradient_norm=1.5)
    objective.step_with_accumulation(batch_of(4.0))
    assert objective.gradient_norms["generator"].item() == 12
    assert objective.generator.weight.item() == pytest.approx(1 - 0.5 * 1.5, abs=1e-5)
    objective.step_with_accumulation(batch_of(0.1))
    assert objective.generator.weight.item() == pytest.approx(1 - 0.5 * 1.8, abs=1e-5)


def addresses(objective: Objective) -> dict[str, int]:
    """Return where the generator's weights, statistics and counters lie."""
    return {name: value.data_ptr() for name, value in objective.generator.state_dict().items()}


@pytest.mark.parametrize("name", architecture.names())
def test_every_network_of_a_step_in_parts_is_updated_once(name: str) -> None:
    torch.manual_seed(0)
    paper = architecture.load(name)
    objective = paper.objective(without_files(paper.config.tiny()), lambda network: network)
    if not objective.updates_once:
        assert name == "deepfill"
        return
    objective.updating = Updating(parts=2)
    before = addresses(objective)
    image, mask = torch.rand(4, 3, 64, 64) * 2 - 1, torch.zeros(4, 1, 64, 64)
    mask[..., 16:48, 16:40] = 1
    names = tuple("abcd")
    losses = objective.step_with_accumulation(
        Batch(image=image, mask=mask, keys=names, mask_ids=names, step=10**6)
    )
    assert all(value.isfinite() for value in losses.values())
    assert set(objective.gradient_norms) == set(objective.optimizers)
    for optimizer in objective.optimizers.values():
        counts = {int(state["step"]) for state in optimizer.state.values()}
        assert counts == {1}
    assert addresses(objective) == before, "the average of the weights looks tensors up only once"
