"""TF32, cuDNN and deterministic algorithms, as configured and no longer than that."""

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from infill.models import architecture
from infill.pipeline.config import override
from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig
from infill.pipeline.training import TrainConfig, WorkerContext, build_objective, train
from infill.pipeline.training.arithmetic import arithmetic


def flags() -> dict[str, Any]:
    return {
        "products": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn": torch.backends.cudnn.deterministic,
        "torch": torch.are_deterministic_algorithms_enabled(),
    }


def of(name: str, **changes: Any) -> TrainConfig:
    model = architecture.load(name).config.tiny()  # type: ignore[attr-defined]
    data = BatchConfig(batch_size=4, image_size_px=64)
    return TrainConfig(model=model, data=data, num_workers=1, **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"tf32": "all"}, {"products": True}),
        ({"tf32": "off"}, {"convolutions": False}),
        ({"cudnn_benchmark": True}, {"benchmark": True}),
        ({"deterministic": True}, {"cudnn": True, "torch": True}),
    ],
)
def test_a_block_computes_as_configured_and_what_follows_as_before(
    changes: dict[str, Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = flags()
    with arithmetic(of("unet", **changes), print):
        assert flags() == {**before, **expected}
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == ("torch" in expected)
    assert flags() == before


def test_operations_without_a_deterministic_form_are_named_once() -> None:
    notes: list[str] = []
    values, places = torch.zeros(3), torch.tensor([0, 0])
    with arithmetic(of("unet", deterministic=True), notes.append):
        for _ in range(2):
            values.put_(places, torch.tensor([1.0, 2.0]))
    [note] = notes
    assert note.startswith("put_ has no deterministic form on this device")


def test_a_training_computes_as_configured(config: Any, quietly: Any) -> None:
    seen = []
    run = override(config, {"deterministic": True, "tf32": "off", "steps": 1})
    train(run, quietly, lambda record: seen.append(flags()) if record.kind == "losses" else None)
    [found] = seen
    assert (found["torch"], found["convolutions"]) == (True, False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"deterministic": True, "cudnn_benchmark": True}, "does not go with cudnn_benchmark"),
        ({"sync_batch_norm": True}, "needs use_gpu"),
        ({"sync_batch_norm": True, "use_gpu": True, "compile": True}, "not go with compile"),
        ({"static_graph": True, "accumulate": 2}, "does not go with accumulate"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        of("unet", **changes)


def test_a_static_graph_is_refused_where_steps_differ() -> None:
    build_objective(of("unet", static_graph=True), WorkerContext())
    with pytest.raises(UserError, match="the steps of spn differ: leave static_graph off"):
        build_objective(of("spn", static_graph=True), WorkerContext())


def test_statistics_are_of_all_workers_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another worker; how it is wrapped is tested with two processes."""
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda network, **_: network)
    monkeypatch.setattr("infill.pipeline.training.distributed.buffers_sent_once", lambda *_: {})
    for wanted in (False, True):
        worker = WorkerContext(world_size=2, sync_batch_norm=wanted)
        objective = build_objective(of("unet"), worker)
        norms = [one for one in objective.generator.modules() if "BatchNorm" in type(one).__name__]
        assert norms
        assert {isinstance(norm, nn.SyncBatchNorm) for norm in norms} == {wanted}
        alone = build_objective(of("unet"), replace(worker, world_size=1))
        assert list(alone.generator.state_dict()) == list(objective.generator.state_dict())


@pytest.mark.gpu
def test_a_deterministic_training_repeats_on_a_gpu(
    config: Any, tmp_path: Any, weights: Any
) -> None:
    found = []
    for name in ("one", "other"):
        changes = {"deterministic": True, "use_gpu": True, "storage": str(tmp_path / name)}
        run = override(config, changes)
        train(run, print)
        found.append(weights(run.storage, 6))
    assert all(
        torch.equal(value, found[1][part][name])
        for part, tensors in found[0].items()
        for name, value in tensors.items()
    )
