"""Checkpoints of a store that hangs, for which no other worker waits, and fields of their state."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from infill.models.unet.config import UNetConfig
from infill.pipeline import checkpoints
from infill.pipeline.loading import BatchConfig
from infill.pipeline.training import TrainConfig, WorkerContext, build_objective
from infill.pipeline.training.async_checkpoint import (
    WAITING_SHARE,
    AsyncCheckpointer,
    _require_fields,
)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hold every write until the event is set."""
    opened, write = threading.Event(), checkpoints.write

    def held(*everything: Any) -> str:
        opened.wait()
        return write(*everything)

    monkeypatch.setattr(checkpoints, "write", held)
    yield opened
    opened.set()


def of(folder: Path, workers: int) -> TrainConfig:
    data = BatchConfig(batch_size=4, image_size_px=64)
    return TrainConfig(
        model=UNetConfig.tiny(),
        data=data,
        storage=str(folder),
        num_workers=workers,
        collective_timeout_s=0.1,
    )


def test_a_store_that_hangs_costs_checkpoints_and_holds_nobody(
    store: threading.Event, tmp_path: Path
) -> None:
    config, notes = of(tmp_path, workers=2), []
    objective = build_objective(config, WorkerContext())
    with AsyncCheckpointer(config, None, lambda record: notes.append(record.text), "") as ours:
        for step in (2, 4, 6):
            ours.submit(objective, None, step, grid=False, save=True)
        before = checkpoints.steps(config.storage)
        store.set()
        ours.submit(objective, None, 8, grid=False, save=True, last=True)
    assert before == []
    assert checkpoints.steps(config.storage) == [2, 8]
    assert len(notes) == 2
    assert notes[0].startswith("nothing is saved at step 4: the checkpoint of step 2 is still")
    assert config.storage in notes[0]


def test_the_first_worker_waits_a_share_of_the_timeout_once(
    store: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left out where no other worker waits."""
    waited: list[float | None] = []
    wait = AsyncCheckpointer.wait

    def seen(self: AsyncCheckpointer, at_most_s: float | None = None) -> bool:
        waited.append(at_most_s)
        return wait(self, at_most_s)

    monkeypatch.setattr(AsyncCheckpointer, "wait", seen)
    for workers, steps, expected in (
        (2, (1, 2, 3), [WAITING_SHARE * 0.1, WAITING_SHARE * 0.1, 0.0]),
        (0, (1,), [None]),
    ):
        config = of(tmp_path / str(workers), workers)
        objective = build_objective(config, WorkerContext())
        with AsyncCheckpointer(config, None, lambda record: None, "") as ours:
            for step in steps:
                ours.submit(objective, None, step, grid=False, save=True)
            found = waited[:]
            store.set()
        waited.clear()
        assert found == expected


@pytest.mark.parametrize("name", checkpoints.OWN_FIELDS)
def test_a_field_of_every_checkpoint_is_not_replaced(name: str) -> None:
    with pytest.raises(ValueError, match=f"^a checkpoint's '{name}' has its own meaning"):
        _require_fields({"data_digest": "0", name: "x"})


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), [b"x"]], ids=str)
def test_a_value_that_json_has_not_is_refused_before_the_first_checkpoint(value: Any) -> None:
    with pytest.raises(ValueError, match="^a checkpoint's 'host' is not a JSON value: "):
        _require_fields({"data_digest": "0", "host": value})


def test_the_own_fields_are_those_that_are_not_lasting(tmp_path: Path) -> None:
    config = of(tmp_path, workers=0)
    objective = build_objective(config, WorkerContext())
    with AsyncCheckpointer(config, None, lambda record: None, "") as ours:
        ours.submit(objective, None, 2, grid=False, save=True)
    state = json.loads(Path(checkpoints.step_location(str(tmp_path), 2), "state.json").read_text())
    assert set(checkpoints.OWN_FIELDS) == state.keys() - ours.lasting.keys()
    _require_fields({"data_digest": "0", "host": None, "nested": {"a": [1, 2.5, "x"]}})
