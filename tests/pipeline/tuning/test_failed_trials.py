"""Trials that failed, as Ray leaves them: with or without an exception, with or without scores."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import cloudpickle

from infill.pipeline.errors import UserError
from infill.pipeline.tuning.failed_trials import FailedTrials, reason_of

MEMORY = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: "
    "10.0.0.2, ID: 17f7) was 22.94GB used / 23.54GB limit (0.974)\nRefer to the documentation"
)


def trial(folder: Path, *texts: str, error: Exception | None = None) -> SimpleNamespace:
    """Return a trial with the files that Ray writes: a section of text for each failure."""
    sections = [f"Failure # {at} (occurred at 12:00)\n{text}\n" for at, text in enumerate(texts, 1)]
    (folder / "error.txt").write_text("".join(sections))
    if error is not None:
        (folder / "error.pkl").write_bytes(cloudpickle.dumps(error))
    return SimpleNamespace(
        trial_id="run_1_00000",
        config={"number": 3},
        error_file=str(folder / "error.txt"),
        pickled_error_file=str(folder / "error.pkl") if error is not None else None,
    )


@pytest.mark.parametrize(
    ("texts", "error", "expected"),
    [
        (["Traceback\nUserError: a.tar is cut"], UserError("a.tar is cut"), "a.tar is cut"),
        ([MEMORY], None, "its node 10.0.0.2 used 22.9 of 23.5 GB; give the job fewer workers"),
        (["UserError: a.tar is cut", MEMORY], UserError("a.tar is cut"), "used 22.9 of 23.5 GB"),
        ([MEMORY, "Traceback\nKeyError: 'a'"], None, "KeyError: 'a'"),
    ],
)
def test_a_trial_s_last_failure_is_a_line(tmp_path, texts, error, expected):
    found = reason_of(trial(tmp_path, *texts, error=error))
    assert expected in found
    assert "\n" not in found


def test_failed_trials_are_returned_once_with_their_settings_and_reason(tmp_path):
    failed = FailedTrials()
    failed.on_trial_error(0, [], trial(tmp_path, MEMORY))
    nothing = SimpleNamespace(metrics=None, config=None, error=RuntimeError())
    late = SimpleNamespace(metrics=None, config=None, error=None)
    ended = failed.among([nothing, late])
    assert [one.config for one in ended] == [None, {"number": 3}]
    assert "memory" in ended[1].error
    metrics = {"trial_id": "run_1_00000", "step": 2}
    [one] = failed.among([SimpleNamespace(metrics=metrics, config={}, error=RuntimeError())])
    assert (one.config, one.metrics) == ({"number": 3}, metrics)
    assert "memory" in one.error
