"""Conditions of measurements: other work refuses them, and turns go in both orders."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def conditions() -> ModuleType:
    path = Path(__file__).with_name("conditions.py")
    spec = importlib.util.spec_from_file_location("conditions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_other_work_refuses_a_measurement_unless_it_is_wanted(conditions, monkeypatch) -> None:
    monkeypatch.setattr(conditions, "cores", lambda: 4)
    assert conditions.refusal(1.0, "") == ""
    assert "load 1.30 on 4 cores" in conditions.refusal(1.3, "")
    assert "CROWDED=1" in conditions.refusal(1.3, "")
    assert conditions.refusal(1.3, "1") == ""
    assert conditions.crowded(1.3)
    assert not conditions.crowded(1.0)


def test_turns_go_in_both_orders_at_least_five_times(conditions) -> None:
    taken = list(conditions.turns(["ours", "naive"]))
    assert taken[:4] == ["ours", "naive", "naive", "ours"]
    assert taken.count("ours") == taken.count("naive") >= 5


def test_versions_name_what_computes(conditions) -> None:
    assert "PyTorch 2." in conditions.versions()
    assert "OpenCV 4." in conditions.versions() or "OpenCV 5." in conditions.versions()
